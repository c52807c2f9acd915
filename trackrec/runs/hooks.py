"""What is called after every stage: the protocol, and the readings that it may leave.

Shipped hooks are the monitors of `trackrec.callbacks`; a config names them, or your own, under ``monitors``.
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
    """A monitor found the run past one of its limits. What is done stays."""


class DoneStage(NamedTuple):
    """A stage that is done, and the run so far.

    Attributes:
        name: ``round-1/align``.
        run: every table, note, log and metric of the done stages; see `RunFiles`.
    """

    name: str
    run: RunFiles

    @property
    def kind(self) -> str:
        """The name without the round: ``round-2/align`` is an ``align``."""
        return kind_of(self.name)

    @property
    def round(self) -> int:
        """The round in the name, 0 where it has none."""
        return round_of(self.name)

    @property
    def directory(self) -> Path:
        """Where the stage's result lies."""
        return self.run.run_dir / self.name

    @property
    def metrics(self) -> pl.DataFrame:
        """The metrics of all done stages."""
        return self.run.metrics


class Reading(NamedTuple):
    """One number that a hook looked at.

    Attributes:
        monitor: who looked.
        name: what the number is.
        value: the number.
        n: rows, texts or steps behind it.
        warn: the limit past which a line is printed, None without one.
        stop: the limit past which the run ends, None without one.
        verdict: ``few`` where too few rows stand behind the number to judge it.
        text: what was found and what to do about it, in one sentence or two; empty where all is well.
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
    """Looks at a run after each of its stages, whether the stage ran just now or was up to date.

    It reads, and changes nothing. A reading whose verdict is ``warn`` is printed, ``stop`` ends the run.
    """

    def on_stage_end(self, stage: DoneStage) -> Sequence[Reading]:
        """What there is to tell after this stage.

        Args:
            stage: the stage and the run so far.

        Returns:
            Readings, which are kept beside the stage's logs and shown by the report; empty where the stage is none of
            the hook's concern.
        """
        ...


def write_readings(stage: DoneStage, readings: Sequence[Reading]) -> None:
    """Keep the readings of a stage in the table ``monitors`` among its logs, which no fingerprint counts."""
    rows = [{"stage": stage.name, "round": stage.round, **reading._asdict()} for reading in readings]
    write_part(stage.directory / LOGS, "monitors", rows)


def call_hooks(pipeline: Pipeline, hooks: Sequence[StageHook]) -> Callable[[str, bool], None]:
    """What a pipeline calls after each stage: every hook looks at it, warnings are printed, a stop ends the run.

    A hook that stopped the run stops it again when it is started again: the stage is done all the same.

    Args:
        pipeline: of the run.
        hooks: who looks.

    Returns:
        A function of the stage's name and whether it was made just now.

    Raises:
        StoppedByMonitorError: by that function, with the first reading past its limit, once all hooks have looked.
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
