"""One stage of a pipeline, and the errors of stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from trackrec.runtime.errors import TrackRecError


class StageError(TrackRecError, RuntimeError):
    """A stage can't run: it is unknown, or what it needs is missing."""


class StageResult(NamedTuple):
    """What the body of a stage returns: notes for the manifest, and its peak memory in bytes."""

    notes: dict[str, Any]
    peak_memory: int


@dataclass(frozen=True)
class Stage:
    """One step of a pipeline.

    Attributes:
        name: also its directory under run_dir.
        keys: dotted config keys whose values decide the result.
        inputs: names of the stages it reads.
        module: dotted name of the module that holds its body. What that module imports is the stage's code.
        run: writes into the directory it is given and returns notes for the manifest; it must keep finished parts.
        classes: paths of classes that settings choose without naming them by path, such as an engine.
        outside: what else decides the result, such as the hash of source files.
        processes: in how many it runs; see `Pipeline.spread`.
        part_size: rows per part, for a stage that resumes part by part: parts of another size hold other rows.
    """

    name: str
    keys: tuple[str, ...]
    inputs: tuple[str, ...]
    module: str
    run: Callable[[Path], dict[str, Any]]
    classes: tuple[str, ...] = ()
    outside: Callable[[], Mapping[str, str]] = dict
    processes: int = 1
    part_size: int = 0

    @property
    def kind(self) -> str:
        """The name without its folder: ``round-2/align`` is an ``align``."""
        return self.name.rsplit("/", 1)[-1]
