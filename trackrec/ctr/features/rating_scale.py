"""Ratings of any unit (stars, plays, seconds) as numbers on one scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_KNOTS = 1000  # distinct ratings kept; of more, quantiles

Float = NDArray[np.float64]


@dataclass(frozen=True)
class RatingScale:
    """A rating's place among the train ratings, counted from the threshold: 2 (F(r) - F(threshold)), in [-2, 2].

    F(r) is the share of train ratings below r plus half of those equal to it; F(threshold) is the share that is no
    like. So likes are above 0, all others below, and the number is the same after any strictly increasing map of the
    ratings and the threshold: after another unit, or a logarithm. Between the knots it is interpolated.

    Attributes:
        threshold: a rating above it is a like.
        knots: (K,) ratings, increasing.
        values: (K,) the numbers they become.
        liked: mean of the number over train likes: what an item counts that was chosen without a rating.
    """

    threshold: float
    knots: tuple[float, ...]
    values: tuple[float, ...]
    liked: float

    @classmethod
    def of(cls, ratings: NDArray[Any], threshold: float) -> RatingScale:
        """The scale of some ratings, (M,) finite; without any, everything is 0."""
        values, counts = np.unique(np.asarray(ratings, np.float64), return_counts=True)
        total = max(int(counts.sum()), 1)
        likes = values > threshold
        below = float(counts[~likes].sum())
        places = 2.0 * (np.cumsum(counts) - counts / 2.0 - below) / total
        liked = float((places * counts)[likes].sum() / max(counts[likes].sum(), 1))
        kept = _kept(likes, MAX_KNOTS)
        # A knot just above the threshold keeps likes apart from the others where ratings of neither side are near it.
        first_like = int(likes[kept].argmax()) if likes.any() else len(kept)
        knots = np.insert(values[kept], first_like, np.nextafter(threshold, np.inf))
        return cls(threshold, tuple(knots.tolist()), tuple(np.insert(places[kept], first_like, 0.0).tolist()), liked)

    @classmethod
    def saved(cls, content: Mapping[str, Any]) -> RatingScale:
        """From the mapping of its fields that a file held."""
        return cls(content["threshold"], tuple(content["knots"]), tuple(content["values"]), content["liked"])

    def __call__(self, ratings: NDArray[Any]) -> Float:
        """Ratings of any shape as numbers of it; NaN, no rating, stays NaN."""
        flat = np.asarray(ratings, np.float64)
        return np.where(np.isnan(flat), np.nan, np.interp(flat, self.knots, self.values))


def _kept(likes: NDArray[np.bool_], most: int) -> NDArray[np.int64]:
    """Positions of about ``most`` distinct ratings at most, evenly spaced, and those on both sides of the threshold."""
    even = np.linspace(0, max(len(likes) - 1, 0), min(len(likes), most)).round().astype(np.int64)
    edge = np.flatnonzero(np.diff(likes))
    return np.unique(np.concatenate([even, edge, edge + 1]))
