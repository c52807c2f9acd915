"""AUC, accuracy, log loss, user-averaged AUC and calibration error of predictions.

Letters: N rows, U users. Every function takes NumPy arrays or torch tensors, computes in float64 and returns plain
floats. torch and torchmetrics are imported by the functions that need them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    Vector = NDArray[Any] | torch.Tensor

Float = NDArray[np.float64]
_LOG_EPS = 1e-7  # a float32 sigmoid reaches exactly 0 and 1: the loss of such a row stays finite, at most 16.1 nats


class UAUC(NamedTuple):
    """Mean AUC over users with both classes; ``n_one_class`` users had one class only and are left out."""

    value: float
    n_users: int
    n_one_class: int


def auc(p: Vector, y: Vector) -> float:
    """Area under the ROC curve of scores in [0, 1]; ties count half. NaN where ``y`` has one class only."""
    scores, labels = checked_scores(p, y)
    if labels.size == 0 or labels.min() == labels.max():
        return float("nan")
    import torch
    from torchmetrics.functional.classification import binary_auroc

    # Ranks instead of scores: exact for any monotone scale, and torchmetrics squashes numbers outside [0, 1].
    ranks = np.unique(scores, return_inverse=True)[1] / scores.size
    return float(binary_auroc(torch.from_numpy(ranks), torch.from_numpy(labels.astype(np.int64))))


def accuracy(p: Vector, y: Vector, threshold: float = 0.5) -> float:
    """Share of rows where ``p > threshold`` equals the label."""
    scores, labels = checked_scores(p, y)
    return mean_or_nan((scores > threshold) == (labels > 0))


def log_loss(p: Vector, y: Vector) -> float:
    """Mean negative log-likelihood in nats; ``p`` is clipped to [1e-7, 1 - 1e-7]."""
    return mean_or_nan(row_losses(*checked_scores(p, y)))


def uauc(p: Vector, y: Vector, users: Vector) -> UAUC:
    """Mean over users of the AUC of that user's rows, all users with equal weight (CoLLM, arXiv 2310.19488)."""
    scores, labels = checked_scores(p, y)
    values = user_aucs(scores, labels, user_codes(users, scores.size))
    kept = values[~np.isnan(values)]
    return UAUC(mean_or_nan(kept), len(kept), len(values) - len(kept))


def balanced_mean(values: Vector, y: Vector) -> float:
    """Mean of ``values`` per class of ``y`` first, then over the classes, so that no class outweighs another."""
    numbers = as_array(values).astype(np.float64)
    labels = as_array(y)
    return float(np.mean([numbers[labels == label].mean() for label in np.unique(labels)]))


def calibration_error(p: Vector, y: Vector, n_bins: int = 15) -> float:
    """Expected calibration error: mean |confidence - frequency| over ``n_bins`` equal-width bins, weighted by rows.

    Σ_b |Σ_{i in b} (p_i - y_i)| / N over bins b. torchmetrics has it too; its import takes seconds.
    """
    scores, labels = checked_scores(p, y)
    if not scores.size:
        return float("nan")
    bins = np.minimum((scores * n_bins).astype(int), n_bins - 1)
    return float(np.abs(np.bincount(bins, scores - labels)).sum() / scores.size)


def as_array(values: Vector) -> NDArray[Any]:
    """A NumPy array of the values; a tensor is detached and copied to the CPU first."""
    detach = getattr(values, "detach", None)
    return np.asarray(values if detach is None else detach().cpu().numpy())


def mean_or_nan(values: NDArray[Any]) -> float:
    """The float64 mean; NaN where there is no value."""
    return float(np.mean(values, dtype=np.float64)) if values.size else float("nan")


def checked_scores(p: Vector, y: Vector) -> tuple[Float, Float]:
    """Scores and labels as float64 (N,).

    Raises:
        ValueError: they aren't vectors of one length, a score is NaN or infinite, or a label is neither 0 nor 1.
    """
    scores, labels = as_array(p).astype(np.float64), as_array(y).astype(np.float64)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(f"p and y must be vectors of one length, got shapes {scores.shape} and {labels.shape}.")
    if not np.isfinite(scores).all():
        raise ValueError(f"p must be finite, got {int((~np.isfinite(scores)).sum())} NaN or infinite of {scores.size}.")
    if not np.isin(labels, (0.0, 1.0)).all():
        raise ValueError("y must hold 0 and 1 only.")
    return scores, labels


def user_codes(users: Vector, n_rows: int) -> NDArray[np.int64]:
    """Each row's user as a number from 0: (N,).

    Raises:
        ValueError: there is not one user per row.
    """
    names = as_array(users)
    if names.shape != (n_rows,):
        raise ValueError(f"users must have one entry per row: {n_rows}, got shape {names.shape}.")
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def row_losses(scores: Float, labels: Float) -> Float:
    """Negative log-likelihood of each row in nats: (N,)."""
    likelihood = np.where(labels > 0, scores, 1.0 - scores)
    losses: Float = -np.log(np.clip(likelihood, _LOG_EPS, 1.0 - _LOG_EPS))
    return losses


def divide_or_nan(a: Float, b: Float) -> Float:
    """``a / b``; NaN where ``b`` is 0."""
    return np.divide(a, b, out=np.full_like(a, np.nan), where=b > 0)


def user_aucs(scores: Float, labels: Float, codes: NDArray[np.int64]) -> Float:
    """(U,) AUC of each user from mid-ranks (Mann-Whitney U / n⁺n⁻), NaN for one class."""
    if not scores.size:
        return np.zeros(0)
    order = np.lexsort((scores, codes))
    s, u = scores[order], codes[order]
    new = np.r_[True, (np.diff(u) != 0) | (np.diff(s) != 0)]
    starts = np.flatnonzero(new)
    sizes = np.diff(np.r_[starts, len(s)])
    midranks = (starts + (sizes - 1) / 2)[np.cumsum(new) - 1]
    pos = np.bincount(u, weights=labels[order])
    total = np.bincount(u).astype(np.float64)
    ranks = midranks - np.r_[0.0, np.cumsum(total)[:-1]][u] + 1.0
    sums = np.bincount(u, weights=ranks * labels[order])
    return divide_or_nan(sums - pos * (pos + 1) / 2, pos * (total - pos))
