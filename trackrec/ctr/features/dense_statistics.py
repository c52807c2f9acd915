"""Dense user × item statistics of what came strictly before a row.

Letters: N rows, H list of rated items, A attributes of an item, n rows of a chunk.

Ratings are numbers of a `trackrec.ctr.features.rating_scale.RatingScale`. The other features are scaled by constants,
not by the mean and variance of the data, which would carry a row's label into every row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trackrec.ctr.features.past import PADDING, UNKNOWN, Prior, Priors, RatedLists, encode, like_rate, logit
from trackrec.ctr.features.rating_scale import RatingScale
from trackrec.runtime.errors import SettingError

ITEM_SMOOTHING = 10.0  # pseudo-rows at the base rate, added to the rows of an item
USER_SMOOTHING = 2.0
_CHUNK = 8192
_YEARS = 5.0  # the weight of a film falls by the factor e⁻¹ for so many years apart
_LIST_STATS = (
    "mean_rating",
    "like_share",
    "log_count",
    "affinity",
    "rating_affinity",
    "overlap",
    "residual",
    "year_affinity",
)
HistoryStatistics = Literal["all", "recent", "none"]
ITEM_NAMES = ("item_like_logit", "item_mean_rating", "item_log_count", "item_year")
USER_NAMES = ("user_like_logit", "user_residual", "user_log_count", "user_affinity")

Float32 = NDArray[np.float32]
Int = NDArray[np.int64]


@dataclass(frozen=True)
class FeatureSettings:
    """The ``ctr.features`` section.

    Attributes:
        history_statistics: which statistics of what the user rated the dense features hold. ``all``: of the recent
            list, of the history and of the user's train rows, and of the neighbours of all rated items. ``recent``: of
            the recent list and of the neighbours of its items. ``none``: those of the item only. Where the nets have
            statistics of everything that a text was written from, the text can add little.
        recent_len: how many entries of a sample's recent list the nets, the baselines and the statistics ``recent``
            read, the newest; null: all, ``samples.recent_len``. A change of it leaves the tables of the run as they
            are, so that one set of texts is tried on nets that see much or little.
    """

    history_statistics: HistoryStatistics = "all"
    recent_len: int | None = None

    def __post_init__(self) -> None:
        if self.history_statistics not in get_args(HistoryStatistics):
            raise SettingError(
                f"ctr.features.history_statistics must be one of {', '.join(get_args(HistoryStatistics))}, got "
                f"{self.history_statistics!r}."
            )
        if self.recent_len is not None and self.recent_len < 1:
            raise SettingError(f"ctr.features.recent_len must be at least 1 or null, got {self.recent_len}.")

    def seen(self, samples: pl.DataFrame) -> pl.DataFrame:
        """Rows of the samples table with the part of their recent lists that the nets read."""
        if self.recent_len is None:
            return samples
        return samples.with_columns(pl.col("recent_items", "recent_ratings").list.tail(self.recent_len))


def dense_names(history_statistics: HistoryStatistics = "all") -> tuple[str, ...]:
    """Names of the dense features, in their order: those of the item come first. See `FeatureSettings`."""
    if history_statistics == "none":
        return ITEM_NAMES
    sources = ("recent", "history") if history_statistics == "all" else ("recent",)
    lists = (f"{source}_{name}" for source in sources for name in _LIST_STATS)
    return (*ITEM_NAMES, *lists, *(USER_NAMES if history_statistics == "all" else ()), "neighbour_score")


def item_years(items: pl.DataFrame) -> Float32:
    """(1 + items,) decades since 2000; NaN where the year is unknown, and for row 0, padding."""
    years = items["year"].cast(pl.Float32).to_numpy().astype(np.float32)
    return np.concatenate([[np.nan], (years - 2000.0) / 10.0]).astype(np.float32)


class ItemRatings(Protocol):
    """Ratings of items before a moment."""

    def statistics(self, rows: Int, times: Int) -> Float32:
        """Item rows (N,), times (N,) -> (N, 3): smoothed like-rate as a logit, smoothed mean rating, log count / 5."""

    def expected(self, rows: NDArray[np.int32], times: Int) -> Float32:
        """Lists of item rows (n, H), times (n,) -> (n, H): smoothed mean ratings, in scaled units."""


class EarlierItemRatings:
    """`ItemRatings` from the source rows strictly earlier than the time of each query.

    Args:
        source: rows of :func:`trackrec.ctr.features.past.source_rows`.
        items: the items table, to which item rows point (from 1).
        scale: of the ratings.
    """

    def __init__(self, source: pl.DataFrame, items: pl.DataFrame, scale: RatingScale) -> None:
        self.item_rows = 1 + encode(source["item_id"].alias("item_id of interactions"), items["item_id"])
        self.n_items = len(items)
        ratings, self._times = source["rating"].to_numpy(), source["timestamp"].to_numpy()
        self.liked, self._ratings = ratings > scale.threshold, scale(ratings)
        self.by_item = Priors(source, self.item_rows, scale)
        self.overall = Priors(source, None, scale)

    def statistics(self, rows: Int, times: Int) -> Float32:
        """See `ItemRatings`."""
        everything = self.overall(np.zeros_like(times), times)
        item = self.by_item(rows, times)
        base = (everything.likes + 1.0) / (everything.n + 2.0)
        liked = logit(like_rate(item, base, ITEM_SMOOTHING))
        columns = [liked, _mean_rating(item, everything), np.log1p(item.n) / 5.0]
        return np.stack(columns, axis=1).astype(np.float32)

    @cached_property
    def above(self) -> NDArray[np.float64]:
        """(M,) the source rows' scaled ratings minus what was expected of their items from strictly earlier rows."""
        expected = self.expected(self.item_rows[:, None].astype(np.int32), self._times)[:, 0]
        return self._ratings - expected

    def expected(self, rows: NDArray[np.int32], times: Int) -> Float32:
        """See `ItemRatings`."""
        everything = self.overall(np.zeros_like(times), times)
        repeated = Prior(*(np.repeat(value, rows.shape[1]) for value in everything))
        item = self.by_item(rows.astype(np.int64).ravel(), np.repeat(times, rows.shape[1]))
        return _mean_rating(item, repeated).reshape(rows.shape).astype(np.float32)


class ItemRatingsAt:
    """`ItemRatings` of one moment, computed once for every item; the ``times`` of a call are ignored."""

    def __init__(self, ratings: ItemRatings, n_items: int, time: int) -> None:
        rows = np.arange(1 + n_items)
        times = np.full(len(rows), time, np.int64)
        self._statistics = ratings.statistics(rows, times)
        self._expected = ratings.expected(rows[:, None].astype(np.int32), times)[:, 0]

    def statistics(self, rows: Int, times: Int) -> Float32:
        """See `ItemRatings`."""
        return self._statistics[rows]

    def expected(self, rows: NDArray[np.int32], times: Int) -> Float32:
        """See `ItemRatings`."""
        return self._expected[rows]


def _mean_rating(item: Prior, everything: Prior) -> NDArray[np.float64]:
    """Mean of the scaled ratings of an item's rows, shrunk to that of all rows where there are few."""
    base = everything.ratings / (everything.n + 2.0)
    return (item.ratings + ITEM_SMOOTHING * base) / (item.n + ITEM_SMOOTHING)


def list_statistics(
    attributes: NDArray[np.int32],
    item_row: Int,
    times: Int,
    lists: RatedLists,
    ratings: ItemRatings,
    years: Float32,
    of_sample: Int | None,
) -> Float32:
    """(N, 8) statistics of a list of rated items against the target, in the order of ``_LIST_STATS``.

    Affinity of target attribute a is Σ_{j has a} s_j / (n_a + 1), s_j = ±1 for liked and disliked (``affinity``) or the
    rating minus the expected rating of its item (``rating_affinity``); then the mean over the target's attributes.
    ``residual`` is the mean of the latter s_j over the whole list: how generous the user is. ``year_affinity`` is their
    mean weighted by exp(-|years apart| / 5), 0 where a year is unknown.

    An item that was chosen without a rating says what the user reads, not how kind they are: it counts in ``log_count``
    and ``overlap`` only.

    Args:
        attributes: (n_item_rows, A).
        item_row: (N,) of the target.
        times: (N,) of the sample.
        lists: (L, H) rated items.
        ratings: expected ratings of items.
        years: (n_item_rows,) of :func:`item_years`.
        of_sample: (N,) the list of each sample, None where list i is sample i's.
    """
    result = np.zeros((len(item_row), len(_LIST_STATS)), np.float32)
    for start in range(0, len(item_row), _CHUNK):
        part = slice(start, start + _CHUNK)
        index = np.arange(len(item_row))[part] if of_sample is None else of_sample[part]
        rows, value, mask, rated = lists.take(index)
        count, n_rated = mask.sum(axis=1).astype(np.float32), rated.sum(axis=1).astype(np.float32)
        likes = ((value > 0) & rated).sum(axis=1)
        signs = np.where(rated, np.where(value > 0, 1.0, -1.0), 0.0).astype(np.float32)
        residuals = np.where(rated, value - ratings.expected(rows, times[part]), 0.0).astype(np.float32)
        apart = np.abs(years[item_row[part]][:, None] - years[rows]) * (10.0 / _YEARS)
        near = np.where(rated, np.nan_to_num(np.exp(-apart)), 0.0)
        target = attributes[item_row[part]]  # (n, A)
        shared = _shared_attributes(target, attributes[rows])  # (n, A, H)
        rated_with_attribute = np.einsum("nah,nh->na", shared, rated.astype(np.float32))
        n_target = np.maximum((target > PADDING).sum(axis=1), 1)
        affinities = [
            (np.einsum("nah,nh->na", shared, s) / (rated_with_attribute + 1)).sum(axis=1) / n_target
            for s in (signs, residuals)
        ]
        columns = [
            np.where(rated, value, 0.0).sum(axis=1) / np.maximum(n_rated, 1),
            2 * (likes + 0.5 * USER_SMOOTHING) / (n_rated + USER_SMOOTHING) - 1,
            np.log1p(count) / 5,
            *affinities,
            shared.sum(axis=(1, 2)) / n_target / np.maximum(count, 1),
            residuals.sum(axis=1) / (n_rated + USER_SMOOTHING),
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
