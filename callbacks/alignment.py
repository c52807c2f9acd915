"""Monitors of the alignment, computed from its step log."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from trackrec.recipe.names import in_round
from trackrec.runs.hooks import DoneStage

from .monitor import Gauge, Limits, Monitor

_END = 0.2  # the last fifth of the steps
_UNTUNED = "untuned"  # the source in the tables for texts of the plain base model


def _steps(stage: DoneStage, *columns: str) -> pl.DataFrame | None:
    """The logged steps that have all columns; None after other stages or without a log."""
    log = stage.run.step_logs(stage.name) if stage.kind == "align" else None
    if log is None or not set(columns) <= set(log.columns):
        return None
    return log.select("step", *columns).drop_nulls()


def _end(log: pl.DataFrame) -> pl.DataFrame:
    """The last fifth of the steps, at least one."""
    return log.tail(max(1, round(_END * len(log))))


class LikelihoodDisplacement(Monitor):
    """The chosen texts become unlikely: S-DPO lowers both sides of a set, the rejected side more (trl#2964).

    Args:
        log_ratio: log π(chosen) − log π_ref(chosen) in nats per token, the mean over the last fifth of the steps.
        least: with fewer logged steps the limits don't apply.
    """

    low = ("log_ratio",)

    def __init__(self, log_ratio: Limits = Limits(-0.25, -1.0), least: int = 5) -> None:
        super().__init__(least, {"log_ratio": log_ratio})

    def measure(self, stage: DoneStage) -> Iterator[Gauge]:
        """After align stages."""
        log = _steps(stage, "chosen_log_ratio", "chosen_tokens")
        if log is not None and len(log):
            end = _end(log)
            value = float(end["chosen_log_ratio"].sum()) / float(end["chosen_tokens"].sum())
            advice = "Set align.model.sft_coef, lower align.model.lr, or raise align.model.beta."
            yield Gauge("log_ratio", "the chosen texts' log-ratio per token", value, len(log), advice)


class Saturation(Monitor):
    """Most sets are already won and give almost no gradient: what still moves the generator (G) is noise.

    Args:
        share: share of sets whose negatives have less than 1 % of the softmax, mean over the last fifth of the steps.
        least: with fewer logged steps the limits don't apply.
    """

    def __init__(self, share: Limits = Limits(0.5, 0.95), least: int = 5) -> None:
        super().__init__(least, {"share": share})

    def measure(self, stage: DoneStage) -> Iterator[Gauge]:
        """After align stages."""
        log = _steps(stage, "saturated")
        if log is not None and len(log):
            value = float(_end(log)["saturated"].sum() / len(_end(log)))
            advice = "Lower align.model.lr, or align on more histories (loop.users) for fewer steps."
            yield Gauge("share", "the share of saturated sets", value, len(log), advice, share=True)


def _start_source(stage: DoneStage) -> str:
    """The source, as in the tables, of texts by the G that this alignment started from."""
    inputs = stage.run.manifests[stage.name].inputs
    parent = next((name for name in inputs if name == "distill" or name.endswith("/align")), None)
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
        log = _steps(stage, "chosen_log_ratio", "chosen_tokens")
        if log is not None and len(log) and log["step"][0] == 0:
            value = abs(float(log["chosen_log_ratio"][0] / log["chosen_tokens"][0]))
            advice = f"Delete {stage.name} and run again; see align.model."
            yield Gauge("start", "the policy's distance from its reference at step 0", value, 1, advice)
        sets = stage.run.table(in_round(stage.round, "preferences"), "preferences", ("source",))
        if stage.kind == "align" and sets is not None and stage.run.has(stage.name):
            value = float((sets["source"] != _start_source(stage)).mean() or 0.0)  # type: ignore[arg-type]
            advice = f"Delete {in_round(stage.round, 'sample')} and run again."
            yield Gauge("foreign", "the share of sets drawn by another G", value, len(sets), advice, share=True)
