"""Waiting for other processes, and finding them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def wait_for(what: Callable[[], object], seconds: float = 120.0) -> None:
    """Until it is so; an error after so many seconds."""
    last = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < last, "it never came"
        time.sleep(0.01)


def processes(word: bytes, run_dir: Path) -> list[int]:
    """Numbers of the processes whose command line holds a word and a run directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:  # it has ended
            continue
        if word in command and str(run_dir).encode() in command:
            found.append(int(path.parent.name))
    return found
