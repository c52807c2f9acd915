"""Turns (user, item) requests into rows of the samples table, for `trackrec predict` and `trackrec export`.

A request is answered as if it came after everything in the tables: the user's recent list is their newest ratings (or,
where the dataset publishes the lists, the newest of those), item statistics count all train and history rows.

Letters: B requests, H recent list, A attributes, F dense features, D text dim.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import polars as pl
import torch
from numpy.typing import NDArray

from trackrec.ctr.features.features import CTRData
from trackrec.ctr.training.data import TensorLoader
from trackrec.interactions import DataError

REQUEST = "request"


def newest_histories(samples: pl.DataFrame, answerable: set[str]) -> pl.DataFrame:
    """Each user's newest history among the answerable ones: user_id, history_id."""
    return (
        samples.filter(pl.col("history_id").is_in(list(answerable)))
        .sort("timestamp", "sample_id")
        .group_by("user_id", maintain_order=True)
        .agg(pl.col("history_id").last())
    )


def with_cold_users(
    newest: pl.DataFrame, asked: pl.Series, histories: pl.DataFrame, answerable: set[str]
) -> pl.DataFrame:
    """`newest_histories`, and an empty history for each asked user who has none: whose it is, no feature tells.

    A user whose history only lacks a text stays without one.

    Args:
        newest: user_id, history_id.
        asked: user ids of the requests.
        histories: the table.
        answerable: histories that the nets can read.

    Raises:
        DataError: there is such a user, and no answerable history is empty.
    """
    is_empty = pl.col("item_ids").list.len() == 0
    known = pl.concat([newest["user_id"], histories.filter(~is_empty)["user_id"]])
    new = asked.filter(~asked.is_in(known.implode())).unique().sort()
    if not len(new):
        return newest
    empty = histories.filter(is_empty, pl.col("history_id").is_in(list(answerable)))
    if not len(empty):
        raise no_cold_users("--unknown cold")
    return pl.concat([newest, new.to_frame("user_id").with_columns(history_id=pl.lit(empty["history_id"].min()))])


def no_cold_users(key: str) -> DataError:
    """The error for a run whose nets have seen no row without a history."""
    return DataError(
        f"{key}: the nets of this run have seen no user without a history. Set samples.min_history to 0 and run "
        "`trackrec fit`."
    )


def newest_lists(
    users: pl.DataFrame, recent_len: int, interactions: pl.DataFrame, published: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Each user's recent list after the last rating: user_id, recent_items, recent_ratings.

    Args:
        users: user_id.
        recent_len: ratings in a list.
        interactions: the table, whose newest ratings make the lists.
        published: samples with the lists that the dataset publishes, if it does: each user's newest list is taken
            instead. It lacks what the user was shown since.
    """
    log, order = (interactions, "row") if published is None else (published, "sample_id")
    rows = log.join(users.select("user_id").unique(), on="user_id", how="semi").sort("timestamp", order)
    if published is None:
        lists = {
            "recent_items": pl.col("item_id").tail(recent_len),
            "recent_ratings": pl.col("rating").tail(recent_len),
        }
    else:
        items = pl.col("recent_items").cast(pl.List(pl.String))
        lists = {"recent_items": items.list.tail(recent_len).last()}
        lists["recent_ratings"] = pl.col("recent_ratings").list.tail(recent_len).last()
    return rows.group_by("user_id", maintain_order=True).agg(**lists)


def after_all(interactions: pl.DataFrame) -> int:
    """The moment of a request: a second after the last rating."""
    return int(interactions["timestamp"].max() or 0) + 1  # type: ignore[arg-type]


def request_rows(
    wanted: pl.DataFrame,
    histories: pl.DataFrame,
    interactions: pl.DataFrame,
    recent_len: int,
    published: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Requests as rows of the samples table, split ``request``: each user's newest ratings, just after the last rating.

    Args:
        wanted: user_id, item_id.
        histories: `newest_histories`.
        interactions: the table.
        recent_len: ratings in a recent list.
        published: samples with lists that the dataset publishes; None where they are made of the ratings.

    Raises:
        DataError: a user has no history here.
    """
    recent = newest_lists(wanted, recent_len, interactions, published)
    rows = wanted.select("user_id", "item_id").join(histories, on="user_id", how="left", maintain_order="left")
    rows = rows.join(recent, on="user_id", how="left", maintain_order="left")
    check_users(rows.filter(pl.col("history_id").is_null())["user_id"])
    now = after_all(interactions)
    return rows.select(
        sample_id=pl.format("request-{}", pl.int_range(pl.len())),
        user_id="user_id",
        item_id="item_id",
        label=pl.lit(0, pl.Int8),
        timestamp=pl.lit(now, pl.Int64),
        history_id="history_id",
        recent_items="recent_items",
        recent_ratings="recent_ratings",
        split=pl.lit(REQUEST),
        use=pl.lit(""),
    )


def check_users(strangers: Iterable[str]) -> None:
    """Check that there is no requested user without a history in this run.

    Raises:
        DataError: there is one; the message names the first.
    """
    if missing := sorted(set(strangers)):
        raise DataError(
            f"requests: {len(missing)} users have no history or no RecCoT in this run, the first is {missing[0]!r}. "
            "With loop.texts: all every user of the samples has a RecCoT. `trackrec predict --unknown empty` leaves "
            "their p empty."
        )


def check_items(asked: Iterable[str], known: Container[str]) -> None:
    """Check that every requested item is known.

    Raises:
        DataError: one isn't.
    """
    if unknown := {item for item in asked if item not in known}:
        raise DataError(
            f"requests: {len(unknown)} items are not in the items table, the first is {min(unknown)!r}. "
            "`trackrec predict --unknown empty` leaves their p empty."
        )


def net_inputs(data: CTRData, arm: str, split: str, rows: slice = slice(None)) -> dict[str, NDArray[Any]]:
    """Rows of a split as a net's inputs, by name: indices as int64, the rest as it is; no label.

    ``user``, ``item`` (B,); ``item_attributes`` (B, A); ``recent_items`` (B, H); ``recent_attributes`` (B, H, A);
    ``recent_ratings`` (B, H) float32; ``recent_mask`` (B, H) bool; ``dense`` (B, F) float32; and where the net has
    them ``text`` (B, D) float32, ``text_mask`` (B,) bool.
    """
    loader = TensorLoader(data, split, arm, labels=False)
    batch = loader.rows(torch.arange(loader.n_rows)[rows])
    wide = {name: value.long() if value.dtype == torch.int32 else value for name, value in batch.items()}
    return {name: value.numpy() for name, value in wide.items()}
