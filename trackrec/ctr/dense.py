"""Dense user × item statistics of what came strictly before a row.

Letters: N rows, H list of rated items, A attributes of an item, n rows of a chunk.

Ratings are scaled: (rating - threshold) / scale. The rest is scaled by constants too, not by moments of the data,
through which a row's label would reach every row.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trackrec.ctr.priors import PADDING, UNKNOWN, Earlier, RatedLists, encode, like_rate, logit, prior

ITEM_SMOOTHING = 10.0  # rows of the base rate that an item starts with
USER_SMOOTHING = 2.0
_CHUNK = 8192
_YEARS = 5.0  # films so many years apart tell e⁻¹ as much of each other as films of one year
_LIST_STATS = (
    *("mean_rating", "like_share", "log_count", "affinity", "rating_affinity", "overlap", "residual"),
    "year_affinity",
)
DENSE_NAMES = (
    "item_like_logit",
    "item_mean_rating",
    "item_log_count",
    "item_year",
    *(f"{source}_{name}" for source in ("recent", "history") for name in _LIST_STATS),
    "neighbour_score",
)

Float32 = NDArray[np.float32]


def item_years(items: pl.DataFrame) -> Float32:
    """(1 + items,) decades since 2000; NaN where the year is unknown, and for row 0, padding."""
    years = items["year"].cast(pl.Float32).to_numpy().astype(np.float32)
    return np.concatenate([[np.nan], (years - 2000.0) / 10.0]).astype(np.float32)


def item_statistics(samples: pl.DataFrame, source: pl.DataFrame, threshold: float, scale: float) -> Float32:
    """(N, 3): smoothed like-rate as a logit, smoothed mean rating, log count / 5, of strictly earlier rows."""
    everything = prior(source, None, samples, threshold)
    base = (everything.likes + 1.0) / (everything.n + 2.0)
    base_rating = everything.ratings / (everything.n + 2.0)
    item = prior(source, "item_id", samples, threshold)
    mean = (item.ratings + ITEM_SMOOTHING * base_rating) / (item.n + ITEM_SMOOTHING)
    columns = [logit(like_rate(item, base, ITEM_SMOOTHING)), mean / scale, np.log1p(item.n) / 5.0]
    return np.stack(columns, axis=1).astype(np.float32)


class ExpectedRating:
    """Smoothed mean rating of listed items, in scaled units, from rows strictly earlier than the sample."""

    def __init__(
        self, source: pl.DataFrame, samples: pl.DataFrame, items: pl.DataFrame, threshold: float, scale: float
    ) -> None:
        ratings = (source["rating"].to_numpy().astype(np.float64) - threshold) / scale
        keys = 1 + encode(source["item_id"].alias("item_id of interactions"), items["item_id"])
        self.earlier = Earlier(keys, source["timestamp"].to_numpy(), ratings[:, None])
        everything = prior(source, None, samples, threshold)
        self.base = everything.ratings / (everything.n + 2.0) / scale
        self.times = samples["timestamp"].to_numpy()

    def __call__(self, rows: NDArray[np.int32], part: slice | NDArray[np.int64]) -> Float32:
        """(n, H) item rows listed by the samples of ``part`` -> (n, H)."""
        times = np.repeat(self.times[part], rows.shape[1])
        count, sums = self.earlier(rows.astype(np.int64).ravel(), times)
        base = np.repeat(self.base[part], rows.shape[1])
        return ((sums[:, 0] + ITEM_SMOOTHING * base) / (count + ITEM_SMOOTHING)).reshape(rows.shape).astype(np.float32)


def list_statistics(
    attributes: NDArray[np.int32],
    item_row: NDArray[np.int64],
    lists: RatedLists,
    expected: ExpectedRating,
    years: Float32,
    of_sample: NDArray[np.int64] | None,
) -> Float32:
    """(N, 8) statistics of a list of rated items against the target, in the order of ``_LIST_STATS``.

    Affinity of target attribute a is Σ_{j has a} s_j / (n_a + 1), s_j = ±1 for liked and disliked (``affinity``) or the
    rating minus what its item usually gets (``rating_affinity``); then the mean over the target's attributes.
    ``residual`` is the mean of the latter over the whole list: how kind the user is. ``year_affinity`` is its mean
    weighted by exp(-|years apart| / 5), 0 where a year is unknown.

    Args:
        attributes: (n_item_rows, A).
        item_row: (N,) of the target.
        lists: (L, H) rated items.
        expected: what items usually get.
        years: (n_item_rows,) of :func:`item_years`.
        of_sample: (N,) the list of each sample, None where list i is sample i's.
    """
    result = np.zeros((len(item_row), len(_LIST_STATS)), np.float32)
    for start in range(0, len(item_row), _CHUNK):
        part = slice(start, start + _CHUNK)
        index = np.arange(len(item_row))[part] if of_sample is None else of_sample[part]
        rows, value, mask = lists.rows[index], lists.ratings[index], lists.mask[index]
        count = mask.sum(axis=1).astype(np.float32)
        likes = ((value > 0) & mask).sum(axis=1)
        signs = np.where(mask, np.where(value > 0, 1.0, -1.0), 0.0).astype(np.float32)
        residuals = np.where(mask, value - expected(rows, part), 0.0).astype(np.float32)
        apart = np.abs(years[item_row[part]][:, None] - years[rows]) * (10.0 / _YEARS)
        near = np.where(mask, np.nan_to_num(np.exp(-apart)), 0.0)
        target = attributes[item_row[part]]  # (n, A)
        shared = _shared_attributes(target, attributes[rows])  # (n, A, H)
        with_attribute = shared.sum(axis=2)  # (n, A)
        n_target = np.maximum((target > PADDING).sum(axis=1), 1)
        affinities = [
            (np.einsum("nah,nh->na", shared, s) / (with_attribute + 1)).sum(axis=1) / n_target
            for s in (signs, residuals)
        ]
        columns = [
            value.sum(axis=1) / np.maximum(count, 1),
            2 * (likes + 0.5 * USER_SMOOTHING) / (count + USER_SMOOTHING) - 1,
            np.log1p(count) / 5,
            *affinities,
            with_attribute.sum(axis=1) / n_target / np.maximum(count, 1),
            residuals.sum(axis=1) / (count + USER_SMOOTHING),
            (near * residuals).sum(axis=1) / (near.sum(axis=1) + 1),
        ]
        result[part] = np.stack(columns, axis=1)
    return result


def _shared_attributes(target: NDArray[np.int32], listed: NDArray[np.int32]) -> Float32:
    """(n, A), (n, H, A) -> (n, A, H): 1 where a listed item has the target's attribute; "unknown" is never shared."""
    shared = np.zeros((len(target), target.shape[1], listed.shape[1]), np.float32)
    for column in range(listed.shape[2]):
        shared += (listed[:, None, :, column] == target[:, :, None]) & (target > UNKNOWN)[:, :, None]
    return shared
