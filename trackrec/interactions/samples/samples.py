"""From ratings to histories (what the LLM may read of a user) and labelled samples.

All windows are slices of one array: the ratings sorted by (user, timestamp, row). A history or a recent list is a pair
(start, end) of positions in it, so a million ratings need no loop per row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import polars as pl
import pyarrow as pa

from trackrec.interactions.samples.own_lists import pool_lists
from trackrec.interactions.samples.split import Protocol, assign_use, split_samples
from trackrec.interactions.source import DataError, Ratings, choice_error
from trackrec.storage.atomic import stable_hash

Per = Literal["user", "sample"]
_CHUNK = 500_000


@dataclass(frozen=True)
class SampleRules:
    """How ratings become histories, labelled samples and splits."""

    protocol: Protocol = "temporal"
    """temporal: the last rows by time are test, those before them validation. user: whole users are split. given: as
    the dataset publishes it; without a validation split the last train rows by time become one."""

    per: Per = "user"
    """user: one history per user, the first ratings; each later one is a sample. sample: the ratings before it, or the
    history lists that the dataset publishes."""

    threshold: float | None = None
    """A rating above this is a like (label 1). Null: the dataset's threshold."""

    history_len: int | None = None
    """Ratings in a history. Null: min((n+1)//2, max_history) of a user's n (per: user), max_history (per: sample)."""

    max_history: int = 30
    """The most ratings a history can hold."""

    recent_len: int = 10
    """Ratings in a sample's recent list (read by CTR nets): the last before the target, labelled ones included."""

    strict_ties: bool = True
    """Leave ratings in the same second as the target out of its history and recent list."""

    min_history: int = 1
    """A rating is a sample only when its history has at least so many ratings. 0 keeps cold users: ratings with nothing
    before them or with an empty published list (per: sample), and users with a single rating (per: user, history_len
    null)."""

    valid: float = 0.1
    """Validation share: of labelled rows (temporal), of users (user), of train rows (given, if none is published)."""

    test: float = 0.1
    """Test share, likewise."""

    def __post_init__(self) -> None:
        if self.protocol not in get_args(Protocol):
            raise choice_error("samples.protocol", self.protocol, get_args(Protocol))
        if self.per not in get_args(Per):
            raise choice_error("samples.per", self.per, get_args(Per))
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise DataError(f"samples.threshold must be a finite number or null, got {self.threshold}.")
        for key in ("max_history", "recent_len"):
            if getattr(self, key) < 1:
                raise DataError(f"samples.{key} must be at least 1, got {getattr(self, key)}.")
        if self.history_len is not None and not 1 <= self.history_len <= self.max_history:
            raise DataError(
                f"samples.history_len must be null or in 1..{self.max_history}, got {self.history_len}. "
                "For longer histories raise samples.max_history."
            )
        longest = self.history_len or self.max_history
        if not 0 <= self.min_history <= longest:
            raise DataError(
                f"samples.min_history must be in 0..{longest} (the history length), got {self.min_history}."
            )
        for key in ("valid", "test"):
            if not 0 <= getattr(self, key) < 1:
                raise DataError(f"samples.{key} must be a share in [0, 1), got {getattr(self, key)}.")
        if self.valid + self.test >= 1:
            raise DataError(f"samples.valid + samples.test must be below 1, got {self.valid} + {self.test}.")


class SampleTables(NamedTuple):
    """The tables ``histories`` (by user, then time) and ``samples`` (by time), and what to report about them.

    ``counts``: users, items and ratings of the dataset; histories; samples; likes among them;
    ``users_without_samples``; ``ties_dropped`` (ratings that only ``strict_ties`` keeps from being samples); samples
    per split and use. With ``min_history: 0`` also ``without_history`` (samples whose history is empty). With published
    splits also ``published_*`` (ratings per split). With published history lists also
    ``published_lists``, ``short_histories`` (ratings that are no samples because fewer than ``min_history`` entries are
    left) and ``future_history_items`` (entries left out).
    """

    histories: pl.DataFrame
    samples: pl.DataFrame
    counts: dict[str, int]


class _Log(NamedTuple):
    """Ratings by (user, timestamp, row), and the positions that windows are made of. All arrays: (R,)."""

    rows: pl.DataFrame
    first: np.ndarray  # where the row's user starts
    tie: np.ndarray  # where the row's user and second start
    size: np.ndarray  # how many ratings the row's user has


class _Windows(NamedTuple):
    """Samples as positions: target in the log; history [start, end) and recent list [recent_start, recent_end) in
    ``pool`` (user_id, item_id, rating), which is the log itself unless the dataset publishes history lists."""

    pool: pl.DataFrame
    target: np.ndarray
    start: np.ndarray
    end: np.ndarray
    recent_start: np.ndarray
    recent_end: np.ndarray
    counts: dict[str, int]


def build_samples(ratings: Ratings, rules: SampleRules, threshold: float, seed: int) -> SampleTables:
    """Histories and labelled samples, split.

    The result depends on the rows' ``row`` numbers, not on the order the frames hold them in. With ``per: user`` and no
    ``history_len``, a history's length depends on all ratings of its user, later ones included; set it to avoid that.

    Args:
        ratings: The tables that a source returned.
        rules: The ``samples`` section.
        threshold: The dataset's like threshold, used unless ``rules.threshold`` is set.
        seed: Of the user split and of ``use``.

    Raises:
        DataError: no rating qualifies as a sample, two interactions are equal in user, item, timestamp and row, or the
            rules don't fit what the dataset publishes.
    """
    log = _sort_log(ratings.interactions)
    if ratings.own_histories is not None:
        windows = _windows_of_own(log, ratings.own_histories, rules)
    else:
        windows = _windows_per_user(log, rules) if rules.per == "user" else _windows_per_sample(log, rules)
    if not windows.target.size:
        raise DataError(
            f"samples.history_len={rules.history_len}, samples.min_history={rules.min_history} leave no sample of "
            f"{ratings.interactions.height} ratings by {ratings.users.height} users. Lower them."
        )
    histories, history_ids = _histories(log, windows)
    samples, order = _targets(log, windows, history_ids, rules.threshold if rules.threshold is not None else threshold)
    recent = windows.recent_start[order], windows.recent_end[order]
    pool = windows.pool
    counts = windows.counts
    if not rules.min_history:
        counts = counts | {"without_history": int((windows.start == windows.end).sum())}
    # There may be millions of ratings: free what isn't needed any more before the recent lists are made.
    del log, windows, history_ids, order
    samples = samples.select(
        "sample_id",
        "user_id",
        "item_id",
        "label",
        "timestamp",
        "history_id",
        # As strings the items would take more memory than all the rest.
        _slices(pool["item_id"].cast(pl.Categorical), *recent).alias("recent_items"),
        _slices(pool["rating"], *recent).alias("recent_ratings"),
        "row",
    )
    del pool, recent
    split = split_samples(samples, rules.protocol, rules.valid, rules.test, seed, ratings.splits)
    samples = samples.drop("row").with_columns(split)
    samples = samples.with_columns(assign_use(samples, seed))
    return SampleTables(histories, samples, _count(ratings, histories, samples) | counts)


def check_labels(samples: pl.DataFrame, interactions: pl.DataFrame, threshold: float) -> None:
    """Check that the samples have both labels.

    Args:
        samples: The samples table.
        interactions: The ratings that the samples were made of.
        threshold: A rating above it is a like.

    Raises:
        DataError: all samples are likes, or none is.
    """
    likes = int(samples["label"].sum())
    if 0 < likes < samples.height:
        return
    ratings = interactions["rating"].to_numpy()
    low, high = float(ratings.min()), float(ratings.max())
    remedy = f"Set it to at least {low} and below {high}." if low < high else "There is nothing to learn from them."
    raise DataError(
        f"samples.threshold: {'all' if likes else 'none'} of the {samples.height} samples are likes, ratings above "
        f"{threshold}; the ratings go from {low} to {high}. {remedy}"
    )


def check_splits(samples: pl.DataFrame) -> None:
    """Check that the train and the validation split have both labels.

    Args:
        samples: The samples table.

    Raises:
        DataError: the train or the validation split has no row, or rows of one label.
    """
    for name in ("train", "valid"):
        labels = samples.filter(pl.col("split") == name)["label"]
        if labels.n_unique() < 2:
            got = f"{len(labels)} with one label" if len(labels) else "none"
            raise DataError(
                f"samples: the split {name!r} needs samples of both labels, got {got}. Change samples.valid, "
                "samples.test or samples.protocol, or give more ratings."
            )


def _sort_log(interactions: pl.DataFrame) -> _Log:
    rows = interactions.drop("position", strict=False).sort("user_id", "timestamp", "row")
    position = pl.col("position").cast(pl.Int64)
    marks = rows.with_row_index("position").select(
        position.min().over("user_id").alias("first"),
        position.min().over("user_id", "timestamp").alias("tie"),
        pl.len().over("user_id").cast(pl.Int64).alias("size"),
    )
    return _Log(rows, *(marks[name].cast(pl.Int32).to_numpy() for name in ("first", "tie", "size")))


def _windows_per_user(log: _Log, rules: SampleRules) -> _Windows:
    """A user's first ratings are the history of all later ones."""
    length = np.minimum((log.size + 1) // 2, rules.max_history)
    if rules.history_len is not None:
        length = np.full_like(length, rules.history_len)
    elif not rules.min_history:
        length[log.size == 1] = 0
    position = np.arange(log.size.size, dtype=np.int32)
    end = log.first + length
    later = (position >= end) & (length >= rules.min_history)
    tied = later & (log.tie < end) if rules.strict_ties else np.zeros_like(later)
    target = position[later & ~tied]
    return _with_recent(log, rules, target, log.first[target], end[target], int(tied.sum()))


def _windows_per_sample(log: _Log, rules: SampleRules) -> _Windows:
    """Every rating has the ratings just before it as history."""
    position = np.arange(log.size.size, dtype=np.int32)
    before = log.tie if rules.strict_ties else position
    enough = before - log.first >= rules.min_history
    tied = (position - log.first >= rules.min_history) & ~enough
    target = position[enough]
    end = before[target]
    start = np.maximum(end - (rules.history_len or rules.max_history), log.first[target])
    return _with_recent(log, rules, target, start, end, int(tied.sum()))


def _with_recent(
    log: _Log, rules: SampleRules, target: np.ndarray, start: np.ndarray, end: np.ndarray, ties_dropped: int
) -> _Windows:
    recent_end = log.tie[target] if rules.strict_ties else target
    recent_start = np.maximum(recent_end - rules.recent_len, log.first[target])
    return _Windows(log.rows, target, start, end, recent_start, recent_end, {"ties_dropped": ties_dropped})


def _windows_of_own(log: _Log, lists: pl.DataFrame, rules: SampleRules) -> _Windows:
    """The last entries of the list published with a rating are its history and its recent list."""
    if rules.per != "sample":
        raise DataError(
            f"samples.per must be 'sample' where dataset.init_args.columns.history gives each rating its own history, "
            f"got {rules.per!r}. Set it, or leave dataset.init_args.columns.history out to have histories computed."
        )
    pool, uses, dropped = pool_lists(lists, log.rows, rules.strict_ties)
    everything = pl.DataFrame({"position": np.arange(log.rows.height)})
    uses = everything.join(uses, on="position", how="left").with_columns(pl.col("start", "end").fill_null(0))
    kept = uses.filter(pl.col("end") - pl.col("start") >= rules.min_history).sort("position")
    target, first, end = (kept[name].to_numpy() for name in ("position", "start", "end"))
    start = np.maximum(end - (rules.history_len or rules.max_history), first)
    counts = {"ties_dropped": 0, "short_histories": log.rows.height - kept.height, "future_history_items": dropped}
    counts["published_lists"] = lists.height
    return _Windows(pool, target, start, end, np.maximum(end - rules.recent_len, first), end, counts)


def _histories(log: _Log, windows: _Windows) -> tuple[pl.DataFrame, pl.Series]:
    """The histories table, without duplicates, and the history_id of every sample, in the order of the windows."""
    stride = max(windows.pool.height, log.rows.height) + 1
    # An empty slice lies nowhere: where the user's ratings start, so that each user has an empty history of their own.
    empty = windows.start == windows.end
    starts, ends = (np.where(empty, log.first[windows.target], edge) for edge in (windows.start, windows.end))
    pairs, index, inverse = np.unique(starts.astype(np.int64) * stride + ends, return_index=True, return_inverse=True)
    start, end = np.divmod(pairs, stride)
    table = pl.DataFrame(
        {
            "user_id": log.rows["user_id"].gather(windows.target[index]),
            "item_ids": _slices(windows.pool["item_id"], start, end),
            "ratings": _slices(windows.pool["rating"], start, end),
        }
    )
    ids = _hashes(
        "history_id", table, lambda user, items, rates: stable_hash(user, *items, "|", *[str(rate) for rate in rates])
    )
    table = table.select(ids, "user_id", "item_ids", "ratings").unique("history_id", keep="first", maintain_order=True)
    return table, ids.gather(inverse.ravel())


def _targets(log: _Log, windows: _Windows, history_ids: pl.Series, threshold: float) -> tuple[pl.DataFrame, np.ndarray]:
    """The samples in time order, with ``row`` but without recent lists, split and use; and the index of each window."""
    targets = log.rows[windows.target]
    ids = _hashes("sample_id", targets.select("user_id", "item_id", "timestamp", "row"), stable_hash)
    if ids.is_duplicated().any():
        raise DataError("interactions: a (user_id, item_id, timestamp, row) repeats. Number the rows of the source.")
    keys = targets.select("timestamp", "row", ids)
    # Nearly always the rows break all ties; sorting by the ids as well would copy them.
    by = ["timestamp", "row"] if keys["row"].is_unique().all() else ["timestamp", "row", "sample_id"]
    order = keys.select(pl.arg_sort_by(by).alias("order"))["order"].to_numpy()
    label = (pl.col("rating") > threshold).cast(pl.Int8).alias("label")
    samples = targets.select(ids, "user_id", "item_id", label, "timestamp", history_ids, "row")
    return samples[order], order


def _hashes(name: str, frame: pl.DataFrame, hash_row: Callable[..., str]) -> pl.Series:
    """``hash_row`` of every row, in chunks, so that millions of rows are never Python objects at the same time."""
    parts = [pl.Series(name, [], dtype=pl.String)]
    for chunk in frame.iter_slices(_CHUNK):
        columns = [column.to_list() for column in chunk]
        parts.append(pl.Series(name, [hash_row(*row) for row in zip(*columns, strict=True)], dtype=pl.String))
    return pl.concat(parts)


def _slices(values: pl.Series, start: np.ndarray, end: np.ndarray) -> pl.Series:
    """``[values[a:b] for a, b in zip(start, end)]`` as a list column."""
    parts = [
        _slices_of_chunk(values, start[first : first + _CHUNK], end[first : first + _CHUNK])
        for first in range(0, len(start), _CHUNK)
    ]
    return pl.concat(parts) if parts else _slices_of_chunk(values, start, end)


def _slices_of_chunk(values: pl.Series, start: np.ndarray, end: np.ndarray) -> pl.Series:
    offsets = np.concatenate([[0], np.cumsum(end - start, dtype=np.int64)])
    flat = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], end - start)
    # The newest level keeps strings as views, which share their bytes with those of ``values``.
    lists = pa.LargeListArray.from_arrays(
        pa.array(offsets), values.gather(flat).to_arrow(compat_level=pl.CompatLevel.newest())
    )
    column = pl.from_arrow(lists)
    if not isinstance(column, pl.Series):
        raise TypeError(f"a list array became {type(column).__name__}")
    return column


def _count(ratings: Ratings, histories: pl.DataFrame, samples: pl.DataFrame) -> dict[str, int]:
    splits, uses = (dict(samples[name].value_counts().iter_rows()) for name in ("split", "use"))
    published = {} if ratings.splits is None else dict(ratings.splits["split"].value_counts().iter_rows())
    return {
        "users": ratings.users.height,
        "items": ratings.items.height,
        "ratings": ratings.interactions.height,
        "histories": histories.height,
        "samples": samples.height,
        "likes": int(samples["label"].sum()),
        "users_without_samples": ratings.users.height - samples["user_id"].n_unique(),
        **{f"published_{name}": published.get(name, 0) for name in ("train", "valid", "test") if published},
        **{name: splits.get(name, 0) for name in ("train", "valid", "test")},
        **{name: uses.get(name, 0) for name in ("tune", "reward")},
    }
