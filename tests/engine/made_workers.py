"""Workers that the tests of engines run in other processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trackrec.runtime.errors import SettingError


def writer(folder: str, trouble: str = "") -> Callable[[str], dict[str, Any]]:
    """Writes ``part`` files, atomically; a part whose name is in ``trouble`` ends its process, hangs or raises.

    ``trouble``: ``kill:3`` kills the process of part 3 always, ``kill_once:3`` the first time, ``hang:3`` sleeps,
    ``raise:3`` raises an error that trackrec doesn't know, ``refuse:3`` one that it does, ``full:3`` meets a full disk,
    ``meet:0`` waits for part 1.
    """
    out = Path(folder)
    kind, _, name = trouble.partition(":")
    if kind == "unmade":
        raise SettingError("backbone.model: no such model")
    if kind == "stillborn":
        os.kill(os.getpid(), signal.SIGKILL)

    def body(part: str) -> dict[str, Any]:
        place = out / part
        if place.exists():
            return {"standing": 1}
        with (out / "begun.txt").open("a") as log:
            log.write(f"{part}\n")
        if part == name:
            trouble_of(kind, out)
        temporary = out / f".{part}.{os.getpid()}"
        temporary.write_text(part)
        temporary.rename(place)
        return {"standing": 0, "pid": os.getpid()}

    return body


def trouble_of(kind: str, out: Path) -> None:
    """What goes wrong."""
    once = out / ".once"
    if kind == "kill" or (kind == "kill_once" and not once.exists()):
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "meet":
        last = time.monotonic() + 60
        while not (out / "1").exists() and time.monotonic() < last:
            time.sleep(0.05)
    if kind == "hang":
        time.sleep(1000)
    if kind == "raise":
        raise ZeroDivisionError("of a worker")
    if kind == "refuse":
        raise SettingError("sampler.init_args.max_new_tokens must be lower")
    if kind == "full":
        raise OSError(28, "No space left on device", str(out))
