"""Monitors of the answers of the validator (V) on validation rows."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from trackrec.metrics.scores import calibration_error
from trackrec.recipe.names import is_compared
from trackrec.runs.hooks import DoneStage

from .monitor import Gauge, Limits, Monitor

_BINS = 10


def tuned_answers(stage: DoneStage) -> pl.DataFrame | None:
    """Answers of the V tuned in this round or in the warm-up; None after other stages and for an untuned V."""
    if stage.kind != "evaluate" or is_compared(stage.name):
        return None
    validator = stage.name.replace("evaluate", "rec_tune")
    return stage.run.answers(stage.name, validator)


class Calibration(Monitor):
    """V's probabilities are far from the observed shares of likes: rewards of different histories can't be compared.

    Args:
        error: expected calibration error in ten equal-width bins, on validation rows. With 200 rows even a calibrated V
            has about .05 to .1.
        least: with fewer rows the limits don't apply.
    """

    def __init__(self, error: Limits = Limits(0.25, 0.5), least: int = 100) -> None:
        super().__init__(least, {"error": error})

    def measure(self, stage: DoneStage) -> Iterator[Gauge]:
        """After evaluate stages."""
        if (answers := tuned_answers(stage)) is not None:
            value = calibration_error(answers["p_yes"].to_numpy(), answers["label"].to_numpy(), _BINS)
            advice = "Lower rec_tune.model.lr, or tune V on more rows (rec_tune.data.samples_per_history, loop.users)."
            yield Gauge("error", "V's calibration error", value, len(answers), advice)


class AnswerMass(Monitor):
    """V puts little probability on Yes and No: its scores are ratios of two tiny probabilities.

    Args:
        vocabulary: mean probability of all forms of Yes and No, where V is trained over all tokens
            (``rec_tune.model.answers: vocabulary``).
        labels: the same where V is trained over Yes and No only (``answers: labels``), which doesn't raise it.
        least: with fewer rows the limits don't apply.
    """

    low = ("vocabulary", "labels")

    def __init__(
        self, vocabulary: Limits = Limits(0.5, 0.05), labels: Limits = Limits(1e-3, 1e-5), least: int = 100
    ) -> None:
        super().__init__(least, {"vocabulary": vocabulary, "labels": labels})

    def measure(self, stage: DoneStage) -> Iterator[Gauge]:
        """After evaluate stages."""
        if (answers := tuned_answers(stage)) is not None:
            value = float(answers["answer_mass"].sum() / len(answers))
            key = str(stage.run.saved_config["rec_tune"]["model"].get("answers", "vocabulary"))
            advice = "Tune V longer (rec_tune.trainer.max_epochs, rec_tune.model.lr) or take a model that follows chat."
            yield Gauge(key, "the probability of Yes and No together", value, len(answers), advice)


class AlwaysYes(Monitor):
    """V answers the same whatever it reads: always Yes, always No, or the same number.

    Args:
        lean: |mean P(Yes) − share of likes| on validation rows.
        variation: standard deviation of P(Yes) over the rows.
        least: with fewer rows the limits don't apply.
    """

    low = ("variation",)

    def __init__(
        self, lean: Limits = Limits(0.25, 0.4), variation: Limits = Limits(0.005, 0.0005), least: int = 100
    ) -> None:
        super().__init__(least, {"lean": lean, "variation": variation})

    def measure(self, stage: DoneStage) -> Iterator[Gauge]:
        """After evaluate stages."""
        if (answers := tuned_answers(stage)) is None:
            return
        p, labels, n = answers["p_yes"].to_numpy(), answers["label"].to_numpy(), len(answers)
        side = "Yes" if p.mean() > labels.mean() else "No"
        advice = "Lower rec_tune.model.lr, or tune V on more users (loop.users, loop.warmup_users)."
        yield Gauge("lean", f"V's lean towards {side}", abs(float(p.mean() - labels.mean())), n, advice)
        yield Gauge("variation", "the standard deviation of P(Yes)", float(p.std()), n, advice)
