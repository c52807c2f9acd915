"""The engine of one machine: child processes that speak over pipes. It needs no package."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path

from trackrec.engine.engine import Crewman, Engine, Event, WorkerSpec, import_path


class LocalEngine(Engine):
    """Worker processes on this machine; where it has GPUs, they take turns on them.

    Args:
        workers: how many processes. One per GPU is usual; each holds its own copy of the models.
        deadline_s: a worker that takes longer for one part counts as dead; null waits for ever.
        tries: a part that fails so many times is lost.
    """

    def start(self, spec: WorkerSpec, number: int) -> Crewman:
        """See `Engine.start`."""
        return _Child(spec, _environment(number, self.workers))

    def listen(self, crew: Sequence[Crewman], timeout_s: float) -> list[tuple[Crewman, Event]]:
        """See `Engine.listen`."""
        children = {one.pipe: one for one in crew if isinstance(one, _Child)}
        events: list[tuple[Crewman, Event]] = []
        for pipe in wait(list(children), timeout_s):
            assert isinstance(pipe, Connection)
            events.append((children[pipe], children[pipe].hear()))
        return events


class _Child(Crewman):
    """``python -m trackrec.engine.child``; it exits when this process is gone."""

    def __init__(self, spec: WorkerSpec, env: dict[str, str]) -> None:
        self.pipe, theirs = Pipe()
        command = [sys.executable, "-m", "trackrec.engine.child", str(theirs.fileno()), str(os.getpid())]
        self.process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
        )
        theirs.close()
        self.pipe.send((spec.factory, dict(spec.arguments)))

    def give(self, part: str) -> None:
        """See `Crewman.give`. A process that died meanwhile is reported by `hear`."""
        with suppress(OSError):  # its end of the pipe is closed: the next `hear` says so
            self.pipe.send(part)

    def hear(self) -> Event:
        """What it told; that it is dead if it closed the pipe."""
        try:
            kind, value = self.pipe.recv()
        except (EOFError, OSError):
            return Event("dead", self._end())
        return Event(kind, value)

    def _end(self) -> str:
        try:
            code = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "its worker closed the pipe"
        hint = " (often the machine's memory was full)" if code == -9 else ""
        return f"its worker was killed by signal {-code}{hint}" if code < 0 else f"its worker ended with status {code}"

    def kill(self) -> None:
        """See `Crewman.kill`."""
        self.pipe.close()
        self.process.kill()
        self.process.wait()


def _environment(number: int, workers: int) -> dict[str, str]:
    """The environment of a child: this process's import path, its share of the cores, its GPU."""
    env = dict(os.environ)
    env["PYTHONPATH"] = import_path()
    env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    gpus = _visible_gpus()
    if len(gpus) > 1:
        env["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    return env


def _visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` spells them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name.strip()]
    folder = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number in range(len(list(folder.iterdir())))] if folder.is_dir() else []
