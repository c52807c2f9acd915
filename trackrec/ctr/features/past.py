"""Statistics of what came strictly before a row. Times are compared in this file only.

Letters: N queries, M source rows, K summed values.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trackrec.ctr.features.rating_scale import RatingScale

PADDING, UNKNOWN, FIRST = 0, 1, 2  # indices of padding, of "not in the vocabulary", and of the first known value

Float = NDArray[np.float64]
Int = NDArray[np.int64]


class Prior(NamedTuple):
    """Sums over a key's source rows with an earlier timestamp: each (N,)."""

    n: Float
    likes: Float
    ratings: Float  # on the scale of `trackrec.ctr.features.rating_scale.RatingScale`


class Padded(NamedTuple):
    """A list column as a matrix: values left aligned, ``mask`` true where there is a value. Both (N, H)."""

    values: NDArray[Any]
    mask: NDArray[np.bool_]


class RatedLists(NamedTuple):
    """Lists of rated items: each (N, H).

    Attributes:
        rows: item rows, from 1.
        ratings: on the scale of `trackrec.ctr.features.rating_scale.RatingScale`.
        mask: true where there is an item.
        rated: true where the item has a rating; false where it was only chosen, and counts as a typical like for
            whoever reads ``ratings``.
    """

    rows: NDArray[Any]
    ratings: NDArray[Any]
    mask: NDArray[np.bool_]
    rated: NDArray[np.bool_]

    def take(self, index: Int) -> RatedLists:
        """The lists of the given rows."""
        return RatedLists(*(values[index] for values in self))


class RaggedLists(NamedTuple):
    """`RatedLists` without their mask, laid end to end: each (M,), list i from ``starts[i]`` on."""

    rows: NDArray[np.int32]
    ratings: NDArray[np.float32]
    rated: NDArray[np.bool_]
    starts: Int  # (L + 1,)

    def take(self, index: Int) -> RaggedLists:
        """The lists of the given indices."""
        lengths = self.starts[index + 1] - self.starts[index]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        flat = np.arange(starts[-1]) + np.repeat(self.starts[index] - starts[:-1], lengths)
        return RaggedLists(self.rows[flat], self.ratings[flat], self.rated[flat], starts)

    def padded(self, width: int | None = None) -> RatedLists:
        """As matrices of that width; None: as wide as the longest list, at least 1."""
        lengths = np.diff(self.starts)
        width = width or max(1, int(lengths.max(initial=1)))
        rows, mask = pad(self.rows, lengths, width)
        ratings, rated = (pad(values, lengths, width).values for values in (self.ratings, self.rated))
        return RatedLists(rows, ratings, mask, rated)


def source_rows(samples: pl.DataFrame, histories: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
    """The interactions whose ratings may enter statistics: train rows and history rows, never a valid or test row.

    A row of a later split stays out even where a history (``per: sample``) holds it.
    """
    keys = ["user_id", "item_id", "timestamp"]
    train = samples.filter(pl.col("split") == "train").select(keys).unique()
    held_out = samples.filter(pl.col("split") != "train").select(keys).unique()
    in_history = (
        histories.select("user_id", pl.col("item_ids").alias("item_id"))
        .filter(pl.col("item_id").list.len() > 0)
        .explode("item_id")
        .unique()
    )
    known = pl.concat(
        [
            interactions.join(train, on=keys, how="semi"),
            interactions.join(in_history, on=["user_id", "item_id"], how="semi"),
        ]
    )
    return known.join(held_out, on=keys, how="anti").unique(subset=[*keys, "row"]).sort("timestamp", "row")


def encode(values: pl.Series, vocabulary: pl.Series, first: int = 0, default: int | None = None) -> Int:
    """Position of each value in ``vocabulary`` plus ``first``; a value that isn't there gets ``default``.

    Raises:
        ValueError: a value isn't in the vocabulary and there is no default.
    """
    table = pl.DataFrame({"key": vocabulary, "code": np.arange(first, first + len(vocabulary), dtype=np.int64)})
    codes = pl.DataFrame({"key": values.cast(table["key"].dtype)}).join(
        table, on="key", how="left", maintain_order="left"
    )
    if default is None and codes["code"].null_count():
        missing = codes.filter(pl.col("code").is_null())["key"].unique(maintain_order=True)
        raise ValueError(f"{len(missing)} {values.name or 'keys'} not found, first {missing.head(3).to_list()}.")
    return codes["code"].fill_null(default if default is not None else 0).to_numpy().astype(np.int64)


def flatten(lists: pl.Series) -> pl.Series:
    """All elements of a list column in row order; an empty list gives none."""
    return lists.filter(lists.list.len() > 0).explode()


def pad(flat: NDArray[Any], lengths: Int, width: int) -> Padded:
    """Lists of the given lengths, laid end to end in ``flat``, as a matrix padded with 0 on the right."""
    mask = np.arange(width)[None, :] < lengths[:, None]
    values = np.zeros(mask.shape, dtype=flat.dtype)
    values[mask] = flat
    return Padded(values, mask)


class Earlier:
    """Sums over source rows of one key, up to a moment.

    Args:
        keys: (M,) code of the source row, e.g. its item.
        times: (M,) seconds.
        values: (M, K) what to sum.
    """

    def __init__(self, keys: Int, times: Int, values: Float) -> None:
        # One integer orders by (key, time): a query of moment rank r finds all rows of its key with rank < r below it.
        self.moments = np.unique(times)
        self.scale = len(self.moments) + 1
        order = np.lexsort((times, keys))
        self.ranked = keys[order] * self.scale + np.searchsorted(self.moments, times[order])
        self.sums = np.vstack([np.zeros((1, values.shape[1])), np.cumsum(values[order], axis=0, dtype=np.float64)])

    def __call__(self, keys: Int, times: Int) -> tuple[Float, Float]:
        """Count and sums of rows with the same key and a strictly smaller time.

        Args:
            keys: (N,) codes; a code without source rows gets zeros.
            times: (N,) seconds.

        Returns:
            (N,) counts and (N, K) sums.
        """
        start = np.searchsorted(self.ranked, keys * self.scale)
        end = np.searchsorted(self.ranked, keys * self.scale + np.searchsorted(self.moments, times))
        return (end - start).astype(np.float64), self.sums[end] - self.sums[start]


class Priors:
    """Count, likes and sum of the scaled ratings of a key's source rows, up to a moment.

    Args:
        source: rows of :func:`source_rows`.
        keys: (M,) code of each source row, e.g. its item; None: all of them have code 0.
        scale: of the ratings.
    """

    def __init__(self, source: pl.DataFrame, keys: Int | None, scale: RatingScale) -> None:
        ratings = source["rating"].to_numpy().astype(np.float64)
        values = np.stack([ratings > scale.threshold, scale(ratings)], axis=1).astype(np.float64)
        codes = np.zeros(len(source), np.int64) if keys is None else keys
        self.earlier = Earlier(codes, source["timestamp"].to_numpy(), values)

    def __call__(self, keys: Int, times: Int) -> Prior:
        """Of rows with the same key and a strictly smaller time: (N,), (N,) -> three of (N,)."""
        count, sums = self.earlier(keys, times)
        return Prior(count, sums[:, 0], sums[:, 1])


def prior(source: pl.DataFrame, by: str | None, queries: pl.DataFrame, scale: RatingScale) -> Prior:
    """`Priors` of each query's key, before its timestamp.

    Args:
        source: rows of :func:`source_rows`.
        by: ``item_id`` or ``user_id``; None: over all rows.
        queries: samples with ``timestamp`` and the ``by`` column.
        scale: of the ratings.
    """
    keys = None
    query_keys = np.zeros(len(queries), np.int64)
    if by is not None:
        vocabulary = source[by].unique().sort()
        keys = encode(source[by], vocabulary)
        query_keys = encode(queries[by], vocabulary, default=len(vocabulary))
    return Priors(source, keys, scale)(query_keys, queries["timestamp"].to_numpy())


def like_rate(prior: Prior, base: Float, smoothing: float) -> Float:
    """(likes + smoothing · base) / (count + smoothing): (N,), shrunk to ``base`` where there are few rows."""
    return (prior.likes + smoothing * base) / (prior.n + smoothing)


def logit(p: Float) -> Float:
    """log(p / (1 - p)) of probabilities strictly inside (0, 1)."""
    log_odds: Float = np.log(p) - np.log1p(-p)
    return log_odds
