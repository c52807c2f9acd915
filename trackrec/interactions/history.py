"""From ratings to histories (what the LLM may read of a user) and labelled samples.

All windows are slices of one array: the ratings sorted by (user, timestamp, row). A history or a recent list is a pair
(start, end) of positions in it, so a million ratings need no loop per row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import polars as pl
import pyarrow as pa

from trackrec.interactions.source import DataError, Ratings, choice_error
from trackrec.interactions.split import Protocol, assign_use, split_samples
from trackrec.tables import stable_hash

Per = Literal["user", "sample"]


@dataclass(frozen=True)
class SampleRules:
    """How ratings become histories, labelled samples and splits."""

    protocol: Protocol = "temporal"
    """temporal: the last rows by time are test, those before them validation. user: whole users are split."""

    per: Per = "user"
    """user: one history per user, the first ratings; each later one is a sample. sample: the ratings before it."""

    threshold: float | None = None
    """A rating above this is a like (label 1). Null: the dataset's own."""

    history_len: int | None = None
    """Ratings in a history. Null: min((n+1)//2, max_history) of a user's n (per: user), max_history (per: sample)."""

    max_history: int = 30
    """The most ratings a history can hold."""

    recent_len: int = 10
    """Ratings in a sample's recent list (read by CTR nets): the last before the target, labelled ones included."""

    strict_ties: bool = True
    """Leave ratings of the target's own second out of its history and recent list."""

    min_history: int = 1
    """A rating is a sample only when its history has at least so many ratings."""

    valid: float = 0.1
    """Validation share: of labelled rows (temporal) or of users (user)."""

    test: float = 0.1
    """Test share, likewise."""

    def __post_init__(self) -> None:
        if self.protocol not in get_args(Protocol):
            raise choice_error("samples.protocol", self.protocol, get_args(Protocol))
        if self.per not in get_args(Per):
            raise choice_error("samples.per", self.per, get_args(Per))
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise DataError(f"samples.threshold must be a finite number or null, got {self.threshold}.")
        for key in ("max_history", "recent_len", "min_history"):
            if getattr(self, key) < 1:
                raise DataError(f"samples.{key} must be at least 1, got {getattr(self, key)}.")
        if self.history_len is not None and not 1 <= self.history_len <= self.max_history:
            raise DataError(
                f"samples.history_len must be null or in 1..{self.max_history}, got {self.history_len}. "
                "For longer histories raise samples.max_history."
            )
        longest = self.history_len or self.max_history
        if self.min_history > longest:
            raise DataError(
                f"samples.min_history must be in 1..{longest} (the history length), got {self.min_history}."
            )
        for key in ("valid", "test"):
            if not 0 <= getattr(self, key) < 1:
                raise DataError(f"samples.{key} must be a share in [0, 1), got {getattr(self, key)}.")
        if self.valid + self.test >= 1:
            raise DataError(f"samples.valid + samples.test must be below 1, got {self.valid} + {self.test}.")


class SampleTables(NamedTuple):
    """The tables ``histories`` (by user, then time) and ``samples`` (by time), and what to report about them.

    ``counts``: users, items, ratings that were given; histories; samples; likes among them; ``users_without_samples``;
    ``ties_dropped`` (ratings that would be samples, were it not for ``strict_ties``); samples per split and use.
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
    """Samples as positions in the log: target, history [start, end), recent list [recent_start, recent_end)."""

    target: np.ndarray
    start: np.ndarray
    end: np.ndarray
    recent_start: np.ndarray
    recent_end: np.ndarray
    ties_dropped: int


def build_samples(ratings: Ratings, rules: SampleRules, threshold: float, seed: int) -> SampleTables:
    """Histories and labelled samples, split.

    The result depends on the rows' ``row`` numbers, not on the order the frames hold them in. With ``per: user`` and no
    ``history_len``, a history's length depends on how many ratings its user will ever give; fix it to avoid that.

    Args:
        ratings: What a source read.
        rules: The ``samples`` section.
        threshold: The dataset's like threshold, used unless ``rules.threshold`` is set.
        seed: Of the user split and of ``use``.

    Raises:
        DataError: no rating qualifies as a sample, or two interactions are equal in user, item, timestamp and row.
    """
    log = _sort_log(ratings.interactions)
    windows = _windows_per_user(log, rules) if rules.per == "user" else _windows_per_sample(log, rules)
    if not windows.target.size:
        raise DataError(
            f"samples.history_len={rules.history_len}, samples.min_history={rules.min_history} leave no sample of "
            f"{ratings.interactions.height} ratings by {ratings.users.height} users. Lower them."
        )
    histories, history_ids = _histories(log, windows)
    samples = _samples(log, windows, history_ids, rules.threshold if rules.threshold is not None else threshold)
    samples = samples.with_columns(split_samples(samples, rules.protocol, rules.valid, rules.test, seed))
    samples = samples.with_columns(assign_use(samples, seed))
    return SampleTables(histories, samples, _count(ratings, histories, samples, windows.ties_dropped))


def _sort_log(interactions: pl.DataFrame) -> _Log:
    rows = interactions.sort("user_id", "timestamp", "row")
    position = pl.col("position").cast(pl.Int64)
    marks = rows.with_row_index("position").select(
        position.min().over("user_id").alias("first"),
        position.min().over("user_id", "timestamp").alias("tie"),
        pl.len().over("user_id").cast(pl.Int64).alias("size"),
    )
    return _Log(rows, marks["first"].to_numpy(), marks["tie"].to_numpy(), marks["size"].to_numpy())


def _windows_per_user(log: _Log, rules: SampleRules) -> _Windows:
    """The user's first ratings are the history of all the later ones."""
    length = np.minimum((log.size + 1) // 2, rules.max_history)
    if rules.history_len is not None:
        length = np.full_like(length, rules.history_len)
    position, end = np.arange(log.size.size), log.first + length
    later = (position >= end) & (length >= rules.min_history)
    tied = later & (log.tie < end) if rules.strict_ties else np.zeros_like(later)
    target = position[later & ~tied]
    return _with_recent(log, rules, target, log.first[target], end[target], int(tied.sum()))


def _windows_per_sample(log: _Log, rules: SampleRules) -> _Windows:
    """Every rating has the ratings just before it as history."""
    position = np.arange(log.size.size)
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
    return _Windows(target, start, end, recent_start, recent_end, ties_dropped)


def _histories(log: _Log, windows: _Windows) -> tuple[pl.DataFrame, pl.Series]:
    """The histories table, each content once, and the history_id of every sample, in the order of the windows."""
    pairs, which = np.unique(np.stack([windows.start, windows.end]), axis=1, return_inverse=True)
    start, end = pairs
    users = log.rows["user_id"].gather(start)
    table = pl.DataFrame(
        {
            "user_id": users,
            "item_ids": _slices(log.rows["item_id"], start, end),
            "ratings": _slices(log.rows["rating"], start, end),
        }
    )
    items, rates = log.rows["item_id"].to_list(), [str(rate) for rate in log.rows["rating"].to_list()]
    bounds = zip(users, start.tolist(), end.tolist(), strict=True)
    ids = pl.Series("history_id", [stable_hash(user, *items[a:b], "|", *rates[a:b]) for user, a, b in bounds])
    table = table.select(ids, "user_id", "item_ids", "ratings").unique("history_id", keep="first", maintain_order=True)
    return table, ids.gather(which.ravel())


def _samples(log: _Log, windows: _Windows, history_ids: pl.Series, threshold: float) -> pl.DataFrame:
    """The samples table but for split and use, in time order."""
    targets = log.rows[windows.target]
    keys = targets.select("user_id", "item_id", "timestamp", "row").iter_rows()
    samples = targets.select(
        pl.Series("sample_id", [stable_hash(*key) for key in keys], dtype=pl.String),
        "user_id",
        "item_id",
        (pl.col("rating") > threshold).cast(pl.Int8).alias("label"),
        "timestamp",
        history_ids,
        _slices(log.rows["item_id"], windows.recent_start, windows.recent_end).alias("recent_items"),
        _slices(log.rows["rating"], windows.recent_start, windows.recent_end).alias("recent_ratings"),
        "row",
    )
    if samples["sample_id"].is_duplicated().any():
        raise DataError("interactions: a (user_id, item_id, timestamp, row) repeats. Number the rows of the source.")
    return samples.sort("timestamp", "row", "sample_id").drop("row")


def _slices(values: pl.Series, start: np.ndarray, end: np.ndarray) -> pl.Series:
    """``[values[a:b] for a, b in zip(start, end)]`` as a list column."""
    offsets = np.concatenate([[0], np.cumsum(end - start)])
    flat = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], end - start)
    lists = pa.LargeListArray.from_arrays(pa.array(offsets), values.gather(flat).to_arrow())
    column = pl.from_arrow(lists)
    if not isinstance(column, pl.Series):
        raise TypeError(f"a list array became {type(column).__name__}")
    return column


def _count(ratings: Ratings, histories: pl.DataFrame, samples: pl.DataFrame, ties_dropped: int) -> dict[str, int]:
    splits, uses = (samples[name].to_list() for name in ("split", "use"))
    return {
        "users": ratings.users.height,
        "items": ratings.items.height,
        "ratings": ratings.interactions.height,
        "histories": histories.height,
        "samples": samples.height,
        "likes": int(samples["label"].sum()),
        "users_without_samples": ratings.users.height - samples["user_id"].n_unique(),
        "ties_dropped": ties_dropped,
        **{name: splits.count(name) for name in ("train", "valid", "test")},
        **{name: uses.count(name) for name in ("tune", "reward")},
    }
