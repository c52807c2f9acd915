"""Numbers computed from the validator's (V's) scores and the labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from trackrec.metrics.intervals import paired_bootstrap, user_bootstrap
from trackrec.metrics.scores import balanced_mean
from trackrec.recipe.names import in_round
from trackrec.report.numbers import RunNumbers, as_num
from trackrec.report.render.document import Num

_RESAMPLES = 500


def paired_difference(metric: Callable[..., Any], ours: pl.DataFrame, other: pl.DataFrame, column: str) -> Num | None:
    """metric(ours) - metric(other) on the same rows with its interval over users; None if the rows differ."""
    if ours["sample_id"].to_list() != other["sample_id"].to_list():
        return None
    users, labels = ours["user_id"].to_numpy(), ours["label"].to_numpy()
    p, q = (frame[column].to_numpy().astype(np.float64) for frame in (ours, other))
    return as_num(paired_bootstrap(metric, users, labels, p, q, n_resamples=_RESAMPLES), "signed")


def draw_rewards(run: RunNumbers, round_: int) -> pl.DataFrame | None:
    """history_id, user_id, draw and reward of a round's draws: P(true label), per class first, as in alignment."""
    scores = run.table(in_round(round_, "score"), "scores", ("history_id", "draw", "sample_id", "p_true"))
    if scores is None:
        return None
    rows = scores.join(run.samples.select("sample_id", "user_id", "label"), on="sample_id", how="inner")
    per_class = rows.group_by("history_id", "user_id", "draw", "label").agg(pl.col("p_true").cast(pl.Float64).mean())
    return (
        per_class.group_by("history_id", "user_id", "draw")
        .agg(pl.col("p_true").mean().alias("reward"))
        .sort("history_id", "draw")
    )


def reward_label_correlation(run: RunNumbers, round_: int) -> Num | None:
    """Correlation of a target's reward, P(true label), with its label over all scored targets of a round."""
    scores = run.table(in_round(round_, "score"), "scores", ("sample_id", "p_true"))
    if scores is None:
        return None
    rows = scores.join(run.samples, on="sample_id", how="inner")
    users, labels = rows["user_id"].to_numpy(), rows["label"].to_numpy().astype(np.float64)
    rewards = rows["p_true"].to_numpy().astype(np.float64)
    return as_num(user_bootstrap(_correlation, users, rewards, labels, n_resamples=_RESAMPLES), "signed")


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() and b.std() else math.nan


def reward_difference(ours: pl.DataFrame, other: pl.DataFrame) -> Num | None:
    """The change in held-out reward between two generators' texts, scored by the same V on the same rows."""
    return paired_difference(balanced_mean, ours, other, "p_true")
