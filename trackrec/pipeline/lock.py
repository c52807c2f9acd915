"""Locks a run directory: a second run fails and names the holder. Files that no run made are never replaced."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from trackrec.runtime.errors import TrackRecError
from trackrec.storage.manifest import MANIFEST

LOCK, OWNER = ".lock", ".owner.json"


class RunLockedError(TrackRecError, RuntimeError):
    """Another process works on the run directory. The message names it."""


class ForeignFilesError(TrackRecError, RuntimeError):
    """A run would replace files that are not its own."""


def check_owned(run_dir: Path, stages: Iterable[str]) -> None:
    """Whether the directories of stages are free, or hold what a run left there.

    Args:
        run_dir: the directory.
        stages: names of the stages that would be written.

    Raises:
        ForeignFilesError: a stage would take the place of something else.
    """
    for name in stages:
        place = run_dir / name
        own = any((place / file).exists() for file in (MANIFEST, "config.yaml"))
        if (place.exists() or place.is_symlink()) and not own and not (place.is_dir() and not any(place.iterdir())):
            raise ForeignFilesError(
                f"run_dir {str(run_dir)!r}: {place} is not of trackrec, and the stage {name} would replace it. Choose "
                "another run_dir, or move it."
            )


@contextmanager
def locked(run_dir: Path, key: str = "run_dir") -> Iterator[None]:
    """Hold the run directory for the length of a run. The system lets go of it when the process dies, however it dies.

    Args:
        run_dir: the directory.
        key: what names it on the command line, for the error.

    Raises:
        RunLockedError: another process holds it.
    """
    from filelock import FileLock, Timeout

    run_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run_dir / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RunLockedError(
            f"{key} {run_dir} is in use by {_owner(run_dir)}. Wait for it, stop it, or choose another {key}."
        ) from None
    try:
        me = {"pid": os.getpid(), "host": platform.node(), "since": datetime.now(UTC).isoformat(timespec="seconds")}
        (run_dir / OWNER).write_text(json.dumps(me))
        yield
    finally:
        (run_dir / OWNER).unlink(missing_ok=True)
        lock.release()


def _owner(run_dir: Path) -> str:
    try:
        owner = json.loads((run_dir / OWNER).read_text())
        return f"process {owner['pid']} on {owner['host']}, since {owner['since']} UTC"
    except (OSError, ValueError, KeyError):
        return "another process"
