"""Filters of ratings: unknown items, repeated (user, item) pairs, the k-core."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trackrec.interactions.source import ROOT_KEY, DataError, Ratings, shown
from trackrec.interactions.sources.columns import ARGS

Which = Literal["earliest", "latest"]


def keep_known(interactions: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """The interactions whose item has a row in ``items``."""
    known = interactions["item_id"].is_in(items["item_id"].implode())
    return interactions if known.all() else interactions.filter(known)


def keep_once(interactions: pl.DataFrame, by: Sequence[str], which: Which = "latest") -> pl.DataFrame:
    """The latest or earliest interaction (by timestamp, then row) of each ``by``, in the order given.

    Only rows whose 64-bit hash repeats are compared: sorting 22 million rows would take several times their memory.
    """
    repeated = _repeated(interactions.select(pl.struct(by).hash().alias("hash"))["hash"].to_numpy())
    if not repeated.any():
        return interactions
    candidates = interactions.lazy().with_row_index("index").filter(pl.Series(repeated)).collect()
    kept = candidates.sort("timestamp", "row").unique(by, keep="last" if which == "latest" else "first")
    keep = ~repeated
    keep[kept["index"].to_numpy()] = True
    return interactions.filter(pl.Series(keep))


def keep_core(rows: pl.DataFrame, min_user: int, min_item: int) -> pl.DataFrame:
    """Rows of users with ``min_user`` rows and of items with ``min_item`` rows, counted after all removals."""
    if max(min_user, min_item) <= 1 or rows.is_empty():
        return rows
    users, items = _codes(rows["user_id"]), _codes(rows["item_id"])
    n_users, n_items = int(users.max()) + 1, int(items.max()) + 1
    kept = np.ones(rows.height, dtype=bool)
    while True:
        before = int(kept.sum())
        kept &= np.bincount(users[kept], minlength=n_users)[users] >= min_user
        kept &= np.bincount(items[kept], minlength=n_items)[items] >= min_item
        if int(kept.sum()) == before:
            return rows.filter(pl.Series(kept))


def filter_known(
    known: pl.DataFrame, by: Sequence[str], which: Which, min_user: int, min_item: int
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Drop and count the repeated ratings, then those outside the k-core.

    Args:
        known: Ratings of known items.
        by: The columns in which repeated ratings are equal.
        which: The one to keep.
        min_user: ``min_user_ratings``.
        min_item: ``min_item_ratings``.

    Raises:
        DataError: nothing is left.
    """
    once = keep_once(known, by, which)
    core = keep_core(once, min_user, min_item)
    if core.is_empty():
        raise DataError(
            f"{ARGS}.min_user_ratings={min_user}, {ARGS}.min_item_ratings={min_item} leave none of "
            f"{once.height} ratings. Lower them."
        )
    return core, {"duplicate_ratings": known.height - once.height, "ratings_outside_core": once.height - core.height}


def check_core(min_user: int, min_item: int) -> None:
    """Check ``min_user_ratings`` and ``min_item_ratings``.

    Raises:
        DataError: one is below 1.
    """
    for key, least in {"min_user_ratings": min_user, "min_item_ratings": min_item}.items():
        if least < 1:
            raise DataError(f"{ARGS}.{key} must be at least 1 (which keeps all), got {least}.")


def join_ratings(items: pl.DataFrame, users: pl.DataFrame, interactions: pl.DataFrame, items_path: Path) -> Ratings:
    """Make the three tables consistent, and count the rows that this drops or adds.

    Ratings of items without a row are dropped. Of several ratings of one item by one user the latest is kept. A user
    without a row gets one with no attributes.

    Raises:
        DataError: no item is rated. The message names ``items_path``, the file of ``items``.
    """
    known = keep_known(interactions, items)
    if known.is_empty():
        have, rated = (shown(frame["item_id"].head(3).to_list()) for frame in (items, interactions))
        raise DataError(
            f"{ROOT_KEY}: {items_path} holds none of the rated items: it has {have}, the ratings are of {rated}. "
            "Are both of one dataset?"
        )
    latest = keep_once(known, ("user_id", "item_id"))
    all_users = add_strangers(users, latest)
    counts = {
        "ratings_read": interactions.height,
        "ratings_of_unknown_items": interactions.height - known.height,
        "duplicate_ratings": known.height - latest.height,
        "users_without_row": all_users.height - users.height,
        "items": items.height,
        "users": all_users.height,
        "ratings": latest.height,
    }
    return Ratings(items, all_users, latest, counts)


def add_strangers(users: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
    """``users``, and below it a row without attributes for each user who occurs only in ``interactions``."""
    strangers = interactions.select("user_id").unique(maintain_order=True).join(users, on="user_id", how="anti")
    no_attributes = pl.lit([], dtype=pl.List(pl.String)).alias("attributes")
    return pl.concat([users, strangers.with_columns(no_attributes)])


def _repeated(hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which hashes occur more than once. Sorting them takes half the memory of a hash table."""
    ordered = np.sort(hashes)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    if not repeated.size:
        return np.zeros(hashes.size, dtype=bool)
    found: NDArray[np.bool_] = repeated[np.minimum(np.searchsorted(repeated, hashes), repeated.size - 1)] == hashes
    return found


def _codes(ids: pl.Series) -> NDArray[np.uint32]:
    """A number for each distinct id. Hashing avoids ranks, which would sort millions of strings."""
    return ids.cast(pl.Categorical).to_physical().to_numpy()
