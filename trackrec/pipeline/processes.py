"""Runs one stage in several processes of this machine. If one of them ends early, all are stopped.

The run itself stays one process, which holds the lock and writes the manifest. Each worker process runs the body of
this one stage (``python -m trackrec.cli.worker``) and reads its rank from the environment, as Lightning expects of
processes that it hasn't started itself.

`torch.distributed.launcher.elastic_launch` would start such workers too. Its restarts are of no use, since a stage
resumes from its checkpoint by itself; its failure report would hide the error of the stage; and its workers survive a
SIGKILL of the run (torch 2.13), which `trackrec.runtime.parent` prevents.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trackrec.pipeline.stage import StageError, StageResult

_POLL_S = 0.1
_GRACE_S = 10.0  # for processes that lost a peer, or were interrupted, to end by themselves
_TAIL_CHARS = 4000
RESULT = "{}.json"


class WorkerError(RuntimeError):
    """A worker process failed with an unexpected error; its traceback is the message."""


def run_in_processes(stage: str, work: Path, count: int) -> StageResult:
    """Run the body of a stage in ``count`` processes and wait for all of them.

    Args:
        stage: its name.
        work: the directory that it fills; ``config.yaml`` in it is the resolved configuration.
        count: how many.

    Returns:
        What the first one says.

    Raises:
        StageError: a process found an error that its message explains, or was killed.
        OSError: the disk of a process is full.
        WorkerError: any other error of a process.
    """
    with tempfile.TemporaryDirectory(prefix="trackrec-") as name:
        folder = Path(name)
        port = _free_port()
        workers = [_start(stage, work, folder, rank, count, port) for rank in range(count)]
        try:
            codes = _wait(workers)
        finally:
            _end(workers)
        if any(worker.returncode for worker in workers):
            raise _error(stage, folder, codes)
        made = json.loads((folder / RESULT.format(0)).read_text())
        return StageResult(made["notes"], made["peak_memory"])


def _start(stage: str, work: Path, folder: Path, rank: int, count: int, port: int) -> subprocess.Popen[bytes]:
    """Start one worker. Rank 0 prints for all; the output of the others is kept in case they fail."""
    place = {"LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    env = {**os.environ, **{name: str(value) for name, value in place.items()}}
    env["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    command = [sys.executable, "-m", "trackrec.cli.worker", stage, str(work), str(folder), str(os.getpid())]
    with (folder / f"{rank}.log").open("wb") as log:
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": log} if rank else {}
        return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, **quiet)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(workers: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """Wait until all have ended or one has failed; returns the exit status of each, 0 where it still runs."""
    while any(worker.poll() is None for worker in workers) and not any(worker.poll() for worker in workers):
        time.sleep(_POLL_S)
    return [worker.poll() or 0 for worker in workers]


def _end(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Give the others a while to end by themselves, then kill them: a process waits for a lost peer for ever."""
    last = time.monotonic() + _GRACE_S
    while any(worker.poll() is None for worker in workers) and time.monotonic() < last:
        time.sleep(_POLL_S)
    for worker in workers:
        if worker.poll() is None:
            worker.kill()
            worker.wait()


def _error(stage: str, folder: Path, codes: Sequence[int]) -> Exception:
    """The first error in time: the other processes fail after it, because a peer is missing."""
    reports = [(rank, folder / RESULT.format(rank)) for rank in range(len(codes))]
    made = [(json.loads(path.read_text()), rank) for rank, path in reports if path.exists()]
    errors = sorted((one for one in made if "time" in one[0]), key=lambda one: float(one[0]["time"]))
    plain = [one for one in errors if one[0]["known"] or one[0]["errno"]]
    lost = [rank for rank, code in enumerate(codes) if code and (code < 0 or rank not in {r for _, r in errors})]
    if plain:
        first = plain[0][0]
        full_disk = OSError(first["errno"], first["text"], first["filename"])
        return full_disk if first["errno"] else StageError(first["text"])
    if lost or not errors:
        rank = lost[0] if lost else 0
        how = f"killed by signal {-codes[rank]}" if codes[rank] < 0 else f"ended with status {codes[rank]}"
        log = (folder / f"{rank}.log").read_text(errors="replace").strip()[-_TAIL_CHARS:]
        hint = " Signal 9 often means that the machine's memory was full." if codes[rank] == -9 else ""
        return StageError(f"stage {stage}: process {rank} of {len(codes)} was {how}.{hint} {log}".strip())
    return WorkerError(f"stage {stage}, process {errors[0][1]} of {len(codes)}:\n{errors[0][0]['text']}")
