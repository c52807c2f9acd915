"""Processes that begin with every library imported: a fork each, which spares the ten seconds that the imports take.

Python's fork server imports `preloaded`, and runs nothing: no product of torch, which would leave a pool of threads
that no fork has. A fork of it is a process like another: it may be killed, it has an environment and a working
directory of its own, and what it prints is kept. Only its command line, as /proc shows it, is the server's.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import weakref
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

_SERVER = get_context("forkserver")
_SERVER.set_forkserver_preload(["preloaded"])
_TESTS = Path(__file__).parent


class Fork:
    """A function in a process of its own, as `subprocess.Popen` has a program.

    Args:
        target: where the function is: ``module:name``.
        args: its arguments.
        env: the environment; None is this one's.
        cwd: the working directory; None is this one's.
    """

    def __init__(self, target: str, *args: Any, env: dict[str, str] | None = None, cwd: Path | None = None) -> None:
        folder = tempfile.mkdtemp(prefix="fork-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._files = [Path(folder, name) for name in ("out", "err")]
        given = (target, args, dict(os.environ if env is None else env), cwd or Path.cwd(), self._files)
        self.process = _SERVER.Process(target=_run, args=given, daemon=True)
        _start(self.process)
        assert self.process.pid is not None
        self.pid = self.process.pid
        self.returncode: int | None = None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = self.process.exitcode
        return self.returncode

    def wait(self, timeout: float = 300.0) -> int:
        """The exit status, once it has ended; a process that takes longer is killed."""
        if self.poll() is None:
            self.process.join(timeout)
        code = self.poll()
        if code is None:
            self.kill()
            raise subprocess.TimeoutExpired(f"fork {self.pid}", timeout, *self._said())
        return code

    def communicate(self, timeout: float = 300.0) -> tuple[str, str]:
        """What it wrote to stdout and stderr until its end."""
        self.wait(timeout)
        out, err = self._said()
        return out, err

    def _said(self) -> list[str]:
        return [file.read_text() if file.exists() else "" for file in self._files]


def trackrec_fork(*args: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> Fork:
    """``trackrec fit ...`` in a fork."""
    return Fork("trackrec.__main__:main", list(args), env=env, cwd=cwd)


def run(target: str, *args: Any, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A function in a fork, to its end."""
    fork = Fork(target, *args, env=env)
    out, err = fork.communicate(timeout=900.0)
    return subprocess.CompletedProcess(target, fork.wait(), out, err)


def _start(process: Any) -> None:
    """The first start starts the server, which finds `preloaded` by the environment alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(_TESTS), *(path for path in sys.path if path)]))
        patch.setenv("OMP_NUM_THREADS", "1")  # read when torch is imported
        process.start()


def _run(target: str, args: tuple[Any, ...], env: dict[str, str], cwd: Path, files: list[Path]) -> None:
    assert "preloaded" in sys.modules, "the fork server hasn't imported tests/preloaded.py"
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for number, file in enumerate(files, 1):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = ["trackrec"]
    module, name = target.split(":")
    getattr(import_module(module), name)(*args)
