"""One stage of a pipeline, and the errors of stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple


class StageError(RuntimeError):
    """A stage can't run: it is unknown, or what it needs is missing."""


class StoppedByMonitorError(StageError):
    """A monitor found the run past one of its limits. What is done stays."""


class StageResult(NamedTuple):
    """What a stage says of itself: notes for the manifest, and its peak memory in bytes."""

    notes: dict[str, Any]
    peak_memory: int


@dataclass(frozen=True)
class Stage:
    """One step of the recipe.

    Attributes:
        name: also its directory under run_dir.
        keys: dotted config keys whose values decide the result.
        inputs: names of the stages it reads.
        rooms: files and folders of the package whose code makes the result.
        run: writes into the directory it is given and returns notes for the manifest; it must keep parts that stand.
        outside: what else decides the result, such as the hash of source files.
        processes: in how many it runs; see `Pipeline.spread`.
        part_size: histories per part, where it goes on by part: parts of another size hold others.
    """

    name: str
    keys: tuple[str, ...]
    inputs: tuple[str, ...]
    rooms: tuple[str, ...]
    run: Callable[[Path], dict[str, Any]]
    outside: Callable[[], Mapping[str, str]] = dict
    processes: int = 1
    part_size: int = 0

    @property
    def kind(self) -> str:
        """The name without the round: ``round-2/align`` is an ``align``."""
        return self.name.rsplit("/", 1)[-1]
