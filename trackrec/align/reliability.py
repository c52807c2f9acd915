"""Does the validator's (V's) reward agree with itself? Measured on the draws of a round.

Letters: D draws of a history, T its targets (the rows that score them).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from trackrec.align.preferences import Reward, log_probability
from trackrec.metrics.intervals import Interval, user_bootstrap
from trackrec.metrics.scores import Float
from trackrec.storage.atomic import stable_hash

RELIABILITY, COMMON = "reward_reliability", "common_log_odds"
_SPLITS = 20  # one split of four targets into halves is a matter of luck
_RESAMPLES = 500
_EPS = 1e-6


class _History(NamedTuple):
    """The scores of a history: labels (T,), V's probabilities of the label, or their logarithms, and of Yes (D, T)."""

    history_id: str
    user_id: str
    labels: Float
    p_true: Float
    p_yes: Float


def measure_rewards(
    draws: pl.DataFrame, scores: pl.DataFrame, samples: pl.DataFrame, seed: int, reward: Reward = "probability"
) -> dict[str, Interval]:
    """Two numbers of a round's rewards, each with a 95 % interval over users; NaN and n = 0 if not measurable.

    ``reward_reliability``: the split-half correlation. The targets of a history are split at random so that each half
    has half of each class, each half gives every draw a reward, and the two rewards are centred within the history and
    correlated over all draws; pooled over 20 splits. At 0 the order of a history's draws is another one with other
    targets: nothing about the texts is in it. The reward from all targets has a reliability of 2 r / (1 + r)
    (Spearman-Brown). ``n`` counts histories; those where a class has a single target can't be split and don't count.

    ``common_log_odds``: the share of the variance of V's log-odds of Yes over a history's draws that is common to its
    targets: mean covariance of two targets over mean variance. Near 1 a text moves V's answers to all items alike.
    ``n`` counts histories with two targets or more.

    Equal draws of a history count once.

    Args:
        draws: the reccots table of the round.
        scores: V's scores of them.
        samples: for users and labels.
        seed: of the splits and the intervals.
        reward: ``align.sets.reward``. What texts cost for claims that aren't grounded is left out: it is the same
            whatever the targets, and says nothing of V.
    """
    halves, shares = [], []
    for one in _histories(draws, scores, samples):
        if reward == "log_gain":  # the part without a text is common to the draws: centring removes it
            one = one._replace(p_true=log_probability(one.p_true))
        if one.p_yes.shape[1] > 1:
            shares.append((one.user_id, *_covariances(np.log(one.p_yes) - np.log1p(-one.p_yes))))
        if min((one.labels == 0).sum(), (one.labels == 1).sum()) > 1:
            halves.append((one.user_id, *_products(one, seed)))
    return {RELIABILITY: _interval(halves, _correlation, seed), COMMON: _interval(shares, _ratio, seed)}


def _histories(draws: pl.DataFrame, scores: pl.DataFrame, samples: pl.DataFrame) -> Iterator[_History]:
    """Histories with two draws or more that differ."""
    differ = draws.sort("history_id", "draw").unique(["history_id", "token_ids"], keep="first", maintain_order=True)
    rows = scores.join(differ.select("history_id", "draw"), on=["history_id", "draw"], how="semi")
    rows = rows.join(samples.select("sample_id", "user_id", "label"), on="sample_id", how="inner")
    rows = rows.sort("history_id", "draw", "sample_id")
    for (history_id,), one in rows.group_by("history_id", maintain_order=True):
        shape = one["draw"].n_unique(), one["sample_id"].n_unique()
        if shape[0] > 1:
            p_true, p_yes = (one[name].to_numpy().astype(np.float64).reshape(shape) for name in ("p_true", "p_yes"))
            labels = one["label"].to_numpy()[: shape[1]]
            yield _History(str(history_id), one["user_id"][0], labels, p_true, np.clip(p_yes, _EPS, 1 - _EPS))


def _products(one: _History, seed: int) -> tuple[float, float, float]:
    """Sums over draws and splits of the products a b, a a and b b of the halves' centred rewards."""
    rng = np.random.default_rng(int(stable_hash("halves", seed, one.history_id, digits=12), 16))
    weights = np.zeros((2, _SPLITS, one.labels.size))  # a reward is a weighted sum over targets
    for label in (0, 1):
        targets = np.flatnonzero(one.labels == label)
        for split in range(_SPLITS):
            mixed = rng.permutation(targets)
            for half, part in enumerate((mixed[: mixed.size // 2], mixed[mixed.size // 2 :])):
                weights[half, split, part] = 0.5 / part.size
    a, b = weights @ (one.p_true - one.p_true.mean(axis=0)).T  # (_SPLITS, D) each
    return float((a * b).sum()), float((a * a).sum()), float((b * b).sum())


def _covariances(log_odds: Float) -> tuple[float, float]:
    """The mean covariance of two targets over the draws, and their mean variance."""
    table = np.cov(log_odds, rowvar=False)
    n = len(table)
    return float((table.sum() - np.trace(table)) / (n * (n - 1))), float(np.trace(table) / n)


def _correlation(ab: Float, aa: Float, bb: Float) -> float:
    scale = math.sqrt(aa.sum() * bb.sum())
    return float(ab.sum() / scale) if scale else math.nan


def _ratio(a: Float, b: Float) -> float:
    return float(a.sum() / b.sum()) if b.sum() else math.nan


def _interval(rows: Sequence[tuple[str, *tuple[float, ...]]], metric: Callable[..., float], seed: int) -> Interval:
    """The metric of some numbers per history; the first entry of a row is its user."""
    if not rows:
        return Interval(math.nan, math.nan, math.nan, 0)
    users, *columns = (np.array(column) for column in zip(*rows, strict=True))
    return user_bootstrap(metric, users, *columns, n_resamples=_RESAMPLES, seed=seed)
