"""Monitors of the alignment, computed from the values that it logs at every step."""

from __future__ import annotations

import abc
import logging
from collections.abc import Iterator
from typing import Any, ClassVar

import polars as pl
from lightning.pytorch import Callback, LightningModule, Trainer

from trackrec.recipe.names import in_round
from trackrec.runs.hooks import DoneStage, StoppedByMonitorError

from .monitor import Gauge, Limits, Monitor

log = logging.getLogger(__name__)

_END = 0.2  # the last fifth of the steps
_UNTUNED = "untuned"  # the source in the tables for texts of the plain base model


def _steps(stage: DoneStage, *columns: str) -> pl.DataFrame | None:
    """The logged steps that have all columns; None after other stages or without a log."""
    steps = stage.run.step_logs(stage.name) if stage.kind == "align" else None
    if steps is None or not set(columns) <= set(steps.columns):
        return None
    return steps.select("step", *columns).drop_nulls()


def _end(steps: pl.DataFrame) -> pl.DataFrame:
    """The last fifth of the steps, at least one."""
    return steps.tail(max(1, round(_END * len(steps))))


class StepMonitor(Monitor, Callback):
    """A monitor of values that the alignment logs at every step: after the stage, and as a callback during it.

    During the stage it looks at the last fifth of all planned steps, but at no fewer than ``least``, as soon as there
    are so many; a resumed stage counts from the step where it goes on. A ``warn`` limit is reported once.
    """

    columns: ClassVar[tuple[str, ...]]
    """Names of the logged values."""

    @abc.abstractmethod
    def gauge(self, steps: pl.DataFrame) -> Gauge:
        """The number to check.

        Args:
            steps: a row per step, with the columns ``step`` and ``columns``; at least one row.
        """

    def measure(self, stage: DoneStage) -> Iterator[Gauge]:
        """After align stages."""
        steps = _steps(stage, *self.columns)
        if steps is not None and len(steps):
            # The limits apply if the whole log is long enough.
            yield self.gauge(_end(steps))._replace(n=len(steps))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier stage."""
        self._rows: list[dict[str, float]] = []
        self._warned = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the last steps.

        Raises:
            StoppedByMonitorError: the number is past its ``stop`` limit. Checkpoints of the stage are kept.
        """
        step = trainer.global_step - 1
        values = trainer.callback_metrics
        accumulating = step < 0 or (bool(self._rows) and self._rows[-1]["step"] == step)
        if accumulating or not set(self.columns) <= set(values):
            return
        self._rows.append({"step": step, **{name: float(values[name]) for name in self.columns}})
        window = max(self.least, round(_END * float(trainer.estimated_stepping_batches)))
        if len(self._rows) < window:
            return
        self._rows = self._rows[-window:]
        reading = self.read(self.gauge(pl.DataFrame(self._rows)))
        if reading.verdict == "stop":
            raise StoppedByMonitorError(f"{self.name} stopped the alignment at step {step}: {reading.text}")
        if reading.verdict == "warn" and not self._warned and trainer.is_global_zero:
            self._warned = True
            log.warning("%s at step %d of the alignment: %s", self.name, step, reading.text)


class LikelihoodDisplacement(StepMonitor):
    """The chosen texts become unlikely: S-DPO lowers both sides of a set, the rejected side more (trl#2964).

    Args:
        log_ratio: log π(chosen) − log π_ref(chosen) in nats per token, the mean over the last fifth of the steps.
        least: with fewer logged steps the limits don't apply.
    """

    low = ("log_ratio",)
    columns = ("chosen_log_ratio", "chosen_tokens")

    def __init__(self, log_ratio: Limits = Limits(-0.25, -1.0), least: int = 5) -> None:
        super().__init__(least, {"log_ratio": log_ratio})

    def gauge(self, steps: pl.DataFrame) -> Gauge:
        """See `StepMonitor.gauge`."""
        value = float(steps["chosen_log_ratio"].sum()) / float(steps["chosen_tokens"].sum())
        advice = "Set align.model.sft_coef, lower align.model.lr, or raise align.model.beta."
        return Gauge("log_ratio", "the chosen texts' log-ratio per token", value, len(steps), advice)


class Saturation(StepMonitor):
    """Most sets are already won and give almost no gradient: what still moves the generator (G) is noise.

    Args:
        share: share of sets whose negatives have less than 1 % of the softmax, mean over the last fifth of the steps.
        least: with fewer logged steps the limits don't apply.
    """

    columns = ("saturated",)

    def __init__(self, share: Limits = Limits(0.5, 0.95), least: int = 5) -> None:
        super().__init__(least, {"share": share})

    def gauge(self, steps: pl.DataFrame) -> Gauge:
        """See `StepMonitor.gauge`."""
        value = float(steps["saturated"].sum()) / len(steps)
        advice = "Lower align.model.lr, or align on more histories (loop.users) for fewer steps."
        return Gauge("share", "the share of saturated sets", value, len(steps), advice, share=True)


def _start_source(stage: DoneStage) -> str:
    """The source, as in the tables, of texts by the G that this alignment started from."""
    inputs = stage.run.manifests[stage.name].inputs
    parent = next((name for name in inputs if name == "distill" or name.endswith(("/align", "/select"))), None)
    return inputs[parent][:12] if parent else _UNTUNED


class StaleReference(Monitor):
    """The reference model isn't the generator (G) that sampled the texts.

    The shipped alignment checks its loss before the first step and stops by itself (`trackrec.align.module`). This
    monitor reads the log and the tables, so it also covers alignment modules that you write.

    Args:
        start: |log π(chosen) − log π_ref(chosen)| in nats per token at the first step, where both are the same model.
        foreign: share of preference sets whose texts came from another G than the one that the alignment started from.
        least: with fewer steps or sets the limits don't apply.
    """

    def __init__(self, start: Limits = Limits(0.02, 0.1), foreign: Limits = Limits(0.0, 0.0), least: int = 1) -> None:
        super().__init__(least, {"start": start, "foreign": foreign})

    def measure(self, stage: DoneStage) -> Iterator[Gauge]:
        """After align stages."""
        steps = _steps(stage, "chosen_log_ratio", "chosen_tokens")
        if steps is not None and len(steps) and steps["step"][0] == 0:
            value = abs(float(steps["chosen_log_ratio"][0] / steps["chosen_tokens"][0]))
            advice = f"Delete {stage.name} and run again; see align.model."
            yield Gauge("start", "the policy's distance from its reference at step 0", value, 1, advice)
        sets = stage.run.table(in_round(stage.round, "preferences"), "preferences", ("source",))
        if stage.kind == "align" and sets is not None and stage.run.has(stage.name):
            value = float((sets["source"] != _start_source(stage)).mean() or 0.0)  # type: ignore[arg-type]
            advice = f"Delete {in_round(stage.round, 'sample')} and run again."
            yield Gauge("foreign", "the share of sets drawn by another G", value, len(sets), advice, share=True)
