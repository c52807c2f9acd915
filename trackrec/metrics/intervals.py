"""Intervals over users and training seeds, and the rows of the metrics table.

Letters: N rows, U users, S training seeds, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trackrec.metrics.scores import (
    Float,
    accuracy,
    as_array,
    auc,
    checked_scores,
    divide_or_nan,
    log_loss,
    row_losses,
    uauc,
    user_aucs,
    user_codes,
)

if TYPE_CHECKING:
    import torch

    Vector = NDArray[Any] | torch.Tensor


# A metric of weighted rows: (R, N) weights -> (R,) values.
Weighted = Callable[[Float], Float]
# With fewer users than this, 95 % intervals miss the true value far more often than in 5 % of cases.
LEAST_USERS = 10
_CHUNK = 4_000_000  # at most so many weights in memory while resampling
_LEVEL, _POWER = 0.975, 0.8  # two-sided 95 %
# Power of the seeds' part of the variance, with two seeds and with more. With 1, more than 97 % of the intervals hold
# the truth where there are three seeds; with 1.25, fewer than 93 % where there are two.
_POWERS_OF_SHARE = (1.0, 1.25)
_NAN = float("nan")


class Interval(NamedTuple):
    """A value, its 95 % interval, and the number of rows behind it."""

    value: float
    low: float
    high: float
    n: int


def user_bootstrap(
    metric_fn: Callable[..., Any],
    users: Vector,
    *arrays: Vector,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Percentile 95 % interval of ``metric_fn(*arrays)`` under resampling of users with replacement.

    ``auc``, ``accuracy``, ``log_loss`` and ``uauc`` (arrays ``p, y``; uauc takes its users from ``users``) are computed
    from user weights without copying rows; any other function gets arrays of repeated rows. Resamples in which the
    metric is NaN (one class drawn) are left out.
    """
    data = [as_array(array) for array in arrays]
    codes = user_codes(users, len(data[0]))
    weighted = _weighted_form(metric_fn, data, codes)
    value = float(weighted(np.ones((1, len(codes))))[0])
    draws = np.concatenate([weighted(w[:, codes]) for w in _user_weights(codes, n_resamples, seed)])
    return _interval(value, draws, len(codes))


class Draws(NamedTuple):
    """A metric by training seed: on all rows, and on resamples of the users.

    Draws of equal ``users``, ``n_resamples`` and ``seed`` come from the same resamples. So their differences are paired
    by resample, and by training seed too.

    The interval of the mean over several seeds takes users and seeds as two crossed random samples (Cameron, Gelbach
    and Miller 2011). With s² the variance of ``by_seed``:

        variance = users + max(0, s² / S - both)

    ``users`` is the variance of the seeds' mean over resamples. It holds the chance that a user and a seed have in
    common (``both``), as s² / S does. The standard error is multiplied by a mean of Student's quantiles with U - 1 and
    with S - 1 degrees of freedom, since few seeds tell little of their variance. The weight of the latter is s² / S's
    part of the variance (Cochran 1964), to the power of 1.25 with three seeds or more. With Satterthwaite's degrees of
    freedom too few intervals hold the truth where seeds are few; ``scripts/calibrate_intervals.py`` measures both.

    Attributes:
        by_seed: (S,) the metric of each training seed on all rows.
        resampled: (R, S) the same on each resample.
        n: number of rows.
        n_users: U.
    """

    by_seed: Float
    resampled: Float
    n: int
    n_users: int

    def __sub__(self, other: Draws) -> Draws:
        """Differences seed by seed; a model without chance in its training has one seed, and meets all of the other's.

        Raises:
            ValueError: both have several seeds, and not equally many.
        """
        counts = (len(self.by_seed), len(other.by_seed))
        if len({*counts, 1}) > 2:
            raise ValueError(f"both sides need equally many training seeds, got {counts[0]} and {counts[1]}.")
        return Draws(self.by_seed - other.by_seed, self.resampled - other.resampled, self.n, self.n_users)

    @property
    def value(self) -> float:
        """The mean over seeds on all rows."""
        return float(self.by_seed.mean())

    def interval(self) -> Interval:
        """Value and 95 % interval. One seed says nothing about the chance of training: then over users alone, by
        percentiles.
        """
        if len(self.by_seed) == 1:
            return _interval(self.value, self.resampled[:, 0], self.n)
        half = self.quantile(_LEVEL) * self.standard_error()
        return Interval(self.value, self.value - half, self.value + half, self.n)

    def detectable(self) -> float:
        """The smallest true value that such an interval shows to differ from 0 with 80 % power."""
        return (self.quantile(_LEVEL) + self.quantile(_POWER)) * self.standard_error()

    def standard_error(self) -> float:
        """Of the mean over seeds; NaN with fewer than two users, or two resamples that aren't NaN."""
        users, seeds, both = self.variances()
        return math.sqrt(users + max(0.0, seeds - both))

    def quantile(self, level: float) -> float:
        """How many standard errors lie below ``level``; see the class."""
        from scipy.stats import t

        users, seeds, both = self.variances()
        variance = users + max(0.0, seeds - both)
        of_users = float(t.ppf(level, self.n_users - 1))
        if not (seeds > 0 and variance > 0):
            return of_users
        n_seeds = len(self.by_seed)
        weight: float = min(1.0, seeds / variance) ** _POWERS_OF_SHARE[n_seeds > 2]
        return of_users + weight * (float(t.ppf(level, n_seeds - 1)) - of_users)

    def variances(self) -> tuple[float, float, float]:
        """What users, seeds, and both in common add to the variance of the mean over seeds.

        The first two hold the third. It is the mean variance of single seeds over resamples less that of their mean.
        """
        kept = self.resampled[~np.isnan(self.resampled).any(axis=1)]
        if len(kept) < 2 or self.n_users < 2:
            return _NAN, _NAN, _NAN
        # Resampling U users gives (U - 1) / U of the variance.
        unbiased = self.n_users / (self.n_users - 1)
        users = unbiased * float(kept.mean(axis=1).var(ddof=1))
        n_seeds = len(self.by_seed)
        if n_seeds == 1:
            return users, 0.0, 0.0
        single = unbiased * float(kept.var(axis=0, ddof=1).mean())
        return users, float(self.by_seed.var(ddof=1)) / n_seeds, max(0.0, single - users) / (n_seeds - 1)


def seed_draws(
    metric_fn: Callable[..., Any], users: Vector, y: Vector, p: Vector, n_resamples: int = 1000, seed: int = 0
) -> Draws:
    """metric(p, y) of each training seed, on all rows and with users resampled.

    Args:
        metric_fn: ``metric_fn(p, y)``.
        users: (N,) the user of each row.
        y: (N,) labels.
        p: (N,) or (S, N) predictions, one row per training seed.
        n_resamples: R.
        seed: of the resampling.
    """
    labels = as_array(y)
    codes = user_codes(users, len(labels))
    forms = [_weighted_form(metric_fn, [row, labels], codes) for row in np.atleast_2d(as_array(p))]
    ones = np.ones((1, len(codes)))
    drawn = []
    for weights in _user_weights(codes, n_resamples, seed):
        rows = weights[:, codes]
        drawn.append(np.stack([form(rows) for form in forms], axis=1))
    by_seed = np.array([float(form(ones)[0]) for form in forms])
    return Draws(by_seed, np.concatenate(drawn), len(codes), int(codes.max()) + 1)


def paired_bootstrap(
    metric_fn: Callable[..., Any],
    users: Vector,
    y: Vector,
    p_a: Vector,
    p_b: Vector,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Interval of metric(a) - metric(b) on the same rows, paired by training seed; see `Draws`."""
    first, second = (seed_draws(metric_fn, users, y, p, n_resamples, seed) for p in (p_a, p_b))
    return (first - second).interval()


def seed_bootstrap(
    metric_fn: Callable[..., Any], users: Vector, y: Vector, p: Vector, n_resamples: int = 1000, seed: int = 0
) -> Interval:
    """Interval of the mean over training seeds of metric(p, y); see `Draws`."""
    return seed_draws(metric_fn, users, y, p, n_resamples, seed).interval()


def evaluate(p: Vector, y: Vector, users: Vector, n_resamples: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """``auc``, ``acc``, ``log_loss`` and ``uauc``, each with its user-clustered interval.

    ``p`` may be (N,) or (S, N), one row per training seed; see `seed_bootstrap`.
    """
    metrics: dict[str, Callable[..., Any]] = {"auc": auc, "acc": accuracy, "log_loss": log_loss, "uauc": uauc}
    return {
        name: seed_bootstrap(metric, users, y, p, n_resamples=n_resamples, seed=seed)
        for name, metric in metrics.items()
    }


def metric_rows(values: Mapping[str, Interval], **key: Any) -> list[dict[str, Any]]:
    """Rows of the metrics table; ``key`` gives stage, round, split, arm, slice and seed; the defaults are below."""
    common = {"round": -1, "slice": "all", "seed": -1, **key}
    return [
        {**common, "name": name, "value": value.value, "ci_low": value.low, "ci_high": value.high, "n": value.n}
        for name, value in values.items()
    ]


def _weighted_auc(scores: Float, labels: Float) -> Weighted:
    """AUC of rows repeated as often as their weights, by one sort: (R, N) weights -> (R,).

    Σ_g w⁺_g (Σ_{h<g} w⁻_h + ½ w⁻_g) / (W⁺ W⁻) over groups g of equal score. NaN where a class has no weight.
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    positive = labels[order]

    def value(weights: Float) -> Float:
        w = weights[:, order]
        w_pos = w * positive
        pos = np.add.reduceat(w_pos, starts, axis=1)  # (R, groups)
        neg = np.add.reduceat(w - w_pos, starts, axis=1)
        below = np.cumsum(neg, axis=1) - 0.5 * neg
        return divide_or_nan((pos * below).sum(axis=1), pos.sum(axis=1) * neg.sum(axis=1))

    return value


def _weighted_mean(values: Float) -> Weighted:
    return lambda weights: divide_or_nan(weights @ values, weights.sum(axis=1))


def _weighted_form(metric_fn: Callable[..., Any], arrays: list[NDArray[Any]], codes: NDArray[np.int64]) -> Weighted:
    """``metric_fn`` as a function of integer row weights, without repeated rows where the metric is known."""
    if metric_fn in (auc, accuracy, log_loss, uauc):
        scores, labels = checked_scores(arrays[0], arrays[1])
        if metric_fn is auc:
            return _weighted_auc(scores, labels)
        if metric_fn is accuracy:
            return _weighted_mean(((scores > 0.5) == (labels > 0)).astype(np.float64))
        if metric_fn is log_loss:
            return _weighted_mean(row_losses(scores, labels))
        aucs = user_aucs(scores, labels, codes)
        first = np.unique(codes, return_index=True)[1]
        kept = ~np.isnan(aucs)
        over_users = _weighted_mean(aucs[kept])
        return lambda weights: over_users(weights[:, first[kept]])

    def repeated(weights: Float) -> Float:
        values = []
        for row in weights.astype(np.int64):
            index = np.repeat(np.arange(len(row)), row)
            result = metric_fn(*(array[index] for array in arrays))
            values.append(float(getattr(result, "value", result)))
        return np.array(values)

    return repeated


def _user_weights(codes: NDArray[np.int64], n_resamples: int, seed: int) -> Iterator[Float]:
    """How often each user is drawn, in chunks (R', U) small enough that the row weights fit in memory."""
    if not codes.size or n_resamples < 1:
        raise ValueError(f"a bootstrap needs rows and resamples, got {codes.size} rows, n_resamples={n_resamples}.")
    rng = np.random.default_rng([seed, 0])
    n_users = int(codes.max()) + 1
    chunk = max(1, min(n_resamples, _CHUNK // len(codes)))
    for start in range(0, n_resamples, chunk):
        size = min(chunk, n_resamples - start)
        yield rng.multinomial(n_users, np.full(n_users, 1 / n_users), size=size).astype(np.float64)


def _interval(value: float, draws: Float, n: int) -> Interval:
    kept = draws[~np.isnan(draws)]
    low, high = np.percentile(kept, [2.5, 97.5]) if kept.size else (_NAN, _NAN)
    return Interval(value, float(low), float(high), n)
