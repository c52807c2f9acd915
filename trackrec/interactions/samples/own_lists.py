"""Concatenates the history lists that a dataset publishes, so that every sample's history is a slice of one table."""

from __future__ import annotations

import polars as pl


def pool_lists(own: pl.DataFrame, log: pl.DataFrame, strict_ties: bool) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """The concatenated lists, the slice of each rating's list, and how many entries were left out.

    An entry is left out of a rating's list if it can only come from the future: its user has ratings of the item in the
    log, and the first of them isn't before the target. That always holds for the target itself, unless the user rated
    it before. Items that the user never rated in the log are kept.

    Args:
        own: `Ratings.own_histories`.
        log: The ratings by (user, timestamp, row).
        strict_ties: Whether a rating in the target's second counts as not before it.

    Returns:
        The pool (user_id, item_id, rating); position (in the log), start and end (in the pool) of every rating that has
        a list; the number of entries left out, over all ratings.
    """
    lists = own.with_row_index("list").cast({"list": pl.Int64})
    ratings = log.with_row_index("position").cast({"position": pl.Int64})
    uses = lists.select("list", pl.col("rows").alias("row")).explode("row").join(ratings, on="row", how="inner")
    uses = uses.select("list", "position", "user_id", "timestamp", "row")
    entries = (
        lists.join(uses.select("list", "user_id").unique("list"), on="list", maintain_order="left")
        .select("list", "user_id", pl.col("item_ids").alias("item_id"), pl.col("ratings").alias("rating"))
        .explode("item_id", "rating")
        .filter(pl.col("item_id").is_not_null())
        .with_row_index("entry")
        .cast({"entry": pl.Int64})
    )
    late = _late_entries(entries, uses, log, strict_ties)
    repaired = (
        late.select("position", "list")
        .unique()
        .join(entries, on="list")
        .join(late, on=["position", "entry"], how="anti")
        .sort("position", "entry")
    )
    bounds = entries.group_by("list").agg(pl.col("entry").min().alias("start"), pl.len().cast(pl.Int64).alias("size"))
    moved = (
        repaired.with_row_index("index")
        .group_by("position")
        .agg(
            (pl.col("index").min().cast(pl.Int64) + entries.height).alias("new_start"),
            pl.len().cast(pl.Int64).alias("new_size"),
        )
    )
    emptied = late.select("position").unique().join(moved, on="position", how="left")
    emptied = emptied.with_columns(pl.col("new_start", "new_size").fill_null(0))
    slices = uses.join(bounds, on="list", how="left").join(emptied, on="position", how="left")
    start = pl.coalesce("new_start", "start", pl.lit(0))
    slices = slices.select(
        "position", start.alias("start"), (start + pl.coalesce("new_size", "size", pl.lit(0))).alias("end")
    )
    pool = pl.concat([part.select("user_id", "item_id", "rating") for part in (entries, repaired)])
    return pool, slices, late.height


def _late_entries(entries: pl.DataFrame, uses: pl.DataFrame, log: pl.DataFrame, strict_ties: bool) -> pl.DataFrame:
    """position, list and number of the entries whose item the user first rated at the target's time or after it."""
    pair = ["user_id", "item_id"]
    rated = log.join(entries.select(pair).unique(), on=pair, how="semi").sort("timestamp", "row")
    first = rated.unique(pair, keep="first").select(
        *pair, pl.col("timestamp").alias("first_time"), pl.col("row").alias("first_row")
    )
    known = entries.join(first, on=pair, how="inner").select("list", "entry", "first_time", "first_row")
    late = pl.col("first_time") > pl.col("timestamp")
    tied = pl.col("first_time") == pl.col("timestamp")
    late |= tied if strict_ties else tied & (pl.col("first_row") >= pl.col("row"))
    return uses.join(known, on="list", how="inner").filter(late).select("position", "list", "entry")
