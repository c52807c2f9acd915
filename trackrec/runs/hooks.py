"""Hooks that are called after every stage: their protocol, and the readings that they return.

The hooks of this package are the monitors of `trackrec.callbacks`; a config names these or yours under ``monitors``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import polars as pl

from trackrec.pipeline.pipeline import Pipeline
from trackrec.pipeline.stage import StageError
from trackrec.recipe.names import kind_of, round_of
from trackrec.runs.files import LOGS, RunFiles
from trackrec.storage.parts import write_part

Verdict = Literal["ok", "few", "warn", "stop"]


class StoppedByMonitorError(StageError):
    """A reading passed its stop limit. Finished stages are kept."""


class DoneStage(NamedTuple):
    """A finished stage, and the run so far.

    Attributes:
        name: ``round-1/align``.
        run: every table, note, log and metric of the finished stages; see `RunFiles`.
    """

    name: str
    run: RunFiles

    @property
    def kind(self) -> str:
        """The name without the round: ``round-2/align`` is an ``align``."""
        return kind_of(self.name)

    @property
    def round(self) -> int:
        """The round in the name, 0 if there is none."""
        return round_of(self.name)

    @property
    def directory(self) -> Path:
        """The stage's directory."""
        return self.run.run_dir / self.name

    @property
    def metrics(self) -> pl.DataFrame:
        """The metrics of all finished stages."""
        return self.run.metrics


class Reading(NamedTuple):
    """One number that a hook measured.

    Attributes:
        monitor: name of the hook.
        name: what the number is.
        value: the number.
        n: how many rows, texts or steps it was computed from.
        warn: the limit past which a warning is printed, None without one.
        stop: the limit past which the run ends, None without one.
        verdict: ``few`` means that ``n`` is too small to compare the number with its limits.
        text: what was measured and what to do about it, in one sentence or two; empty if no limit was passed.
    """

    monitor: str
    name: str
    value: float
    n: int
    warn: float | None
    stop: float | None
    verdict: Verdict
    text: str


@runtime_checkable
class StageHook(Protocol):
    """Called after each stage of a run, whether the stage ran just now or was up to date.

    It must not change the run. A reading with verdict ``warn`` is printed; ``stop`` ends the run. A hook that is also a
    Lightning callback takes part in the trainings of the language models, to stop one before its end.
    """

    def on_stage_end(self, stage: DoneStage) -> Sequence[Reading]:
        """Measure the run after this stage.

        Args:
            stage: the stage and the run so far.

        Returns:
            Readings, which are stored with the stage's logs and shown in the report; empty for stages that the hook
            doesn't measure.
        """
        ...


def write_readings(stage: DoneStage, readings: Sequence[Reading]) -> None:
    """Write the readings of a stage to the table ``monitors`` in its log folder, which fingerprints leave out."""
    rows = [{"stage": stage.name, "round": stage.round, **reading._asdict()} for reading in readings]
    write_part(stage.directory / LOGS, "monitors", rows)


def call_hooks(pipeline: Pipeline, hooks: Sequence[StageHook]) -> Callable[[str, bool], None]:
    """The function that a pipeline calls after each stage: it calls every hook, prints warnings, and may end the run.

    The stage before a stop counts as finished; when the run is started again, the same hook stops it again.

    Args:
        pipeline: of the run.
        hooks: to call.

    Returns:
        A function of the stage's name and whether the stage ran just now.

    Raises:
        StoppedByMonitorError: by that function, after all hooks were called, with the first reading past its stop
            limit.
    """
    files: RunFiles | None = None

    def after_stage(name: str, made: bool) -> None:
        nonlocal files
        if not hooks:
            return
        if made or files is None:
            files = RunFiles(pipeline.run_dir, pipeline.config, [stage.name for stage in pipeline.stages])
        done = DoneStage(name, files)
        readings = [reading for hook in hooks for reading in hook.on_stage_end(done)]
        write_readings(done, readings)
        for reading in readings:
            if reading.verdict == "warn":
                pipeline.say(f"    warning, {reading.monitor} after {name}: {reading.text}")
        if stops := [reading for reading in readings if reading.verdict == "stop"]:
            raise StoppedByMonitorError(f"{stops[0].monitor} stopped the run after {name}: {stops[0].text}")

    return after_stage
