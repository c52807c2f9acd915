"""Statistics of what came strictly before a row: the one place where time is compared.

Letters: N queries, M source rows, K summed values.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

PADDING, UNKNOWN, FIRST = 0, 1, 2  # indices of "nothing here", "not in the vocabulary", and the first known value

Float = NDArray[np.float64]
Int = NDArray[np.int64]


class Prior(NamedTuple):
    """Sums over a key's source rows of an earlier timestamp: each (N,)."""

    n: Float
    likes: Float
    ratings: Float


class Padded(NamedTuple):
    """A list column as a matrix: values left aligned, ``mask`` true where there is a value. Both (N, H)."""

    values: NDArray[Any]
    mask: NDArray[np.bool_]


class RatedLists(NamedTuple):
    """Lists of rated items: item rows (from 1), scaled ratings, and where there is one. Each (N, H)."""

    rows: NDArray[Any]
    ratings: NDArray[Any]
    mask: NDArray[np.bool_]

    def take(self, index: Int) -> RatedLists:
        """The lists of the given rows."""
        return RatedLists(self.rows[index], self.ratings[index], self.mask[index])


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
    found = pl.DataFrame({"key": values.cast(table["key"].dtype)}).join(
        table, on="key", how="left", maintain_order="left"
    )
    if default is None and found["code"].null_count():
        missing = found.filter(pl.col("code").is_null())["key"].unique(maintain_order=True)
        raise ValueError(f"{len(missing)} {values.name or 'keys'} not found, first {missing.head(3).to_list()}.")
    return found["code"].fill_null(default if default is not None else 0).to_numpy().astype(np.int64)


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


def prior(source: pl.DataFrame, by: str | None, queries: pl.DataFrame, threshold: float) -> Prior:
    """Count, likes (rating > threshold) and sum of ``rating - threshold`` before each query's timestamp.

    Args:
        source: rows of :func:`source_rows`.
        by: ``item_id`` or ``user_id``; None: over all rows.
        queries: samples with ``timestamp`` and the ``by`` column.
        threshold: a rating above it is a like.
    """
    ratings = source["rating"].to_numpy().astype(np.float64)
    values = np.stack([ratings > threshold, ratings - threshold], axis=1).astype(np.float64)
    if by is None:
        keys, query_keys = np.zeros(len(source), np.int64), np.zeros(len(queries), np.int64)
    else:
        vocabulary = source[by].unique().sort()
        keys = encode(source[by], vocabulary)
        query_keys = encode(queries[by], vocabulary, default=len(vocabulary))
    times, query_times = source["timestamp"].to_numpy(), queries["timestamp"].to_numpy()
    count, sums = Earlier(keys, times, values)(query_keys, query_times)
    return Prior(count, sums[:, 0], sums[:, 1])


def like_rate(prior: Prior, base: Float, smoothing: float) -> Float:
    """(likes + smoothing · base) / (count + smoothing): (N,), pulled to ``base`` where rows are few."""
    return (prior.likes + smoothing * base) / (prior.n + smoothing)


def logit(p: Float) -> Float:
    """log(p / (1 - p)) of probabilities strictly inside (0, 1)."""
    return np.log(p) - np.log1p(-p)
