"""Folders that are written whole, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trackrec.runtime.errors import SettingError


@contextmanager
def whole_or_nothing(output: Path) -> Iterator[Path]:
    """A folder beside ``output`` that gets its name when the block is done, and is deleted when it fails.

    Raises:
        SettingError: ``output`` exists.
    """
    if output.exists():
        raise SettingError(f"--output {output} exists already. Name a folder that doesn't, or delete it.")
    work = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield work
        work.rename(output)
    finally:
        shutil.rmtree(work, ignore_errors=True)
