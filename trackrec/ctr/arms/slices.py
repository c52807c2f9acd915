"""Slices: subsets of the rows where a text might help although it doesn't on average."""

from __future__ import annotations

import polars as pl

from trackrec.ctr.arms.assemble import CTRInputs
from trackrec.ctr.features.past import source_rows

COLD_ITEM = 5  # at most so many ratings of the item among train and history rows
SHORT_HISTORY = 15  # at most so many items in the history
_QUINTILES = 5


def sample_slices(inputs: CTRInputs) -> pl.DataFrame:
    """Columns ``sample_id`` and ``slice``: a sample is in one slice of each kind, but ``cold_users`` has no opposite.

    ``cold_items`` and ``warm_items`` by the ratings of the item among train and history rows; ``short_history`` and
    ``long_history`` by the history's length; ``activity_1`` (least) to ``activity_5`` by the user's number of ratings,
    quintiles over the users of each split; ``seen_users`` and ``unseen_users`` by whether the generator and the
    validator were tuned on labels of the user, where that is known; ``cold_users`` with nothing in history and recent
    list.
    """
    recent = pl.col("recent_items").list.len().alias("recent")
    samples = inputs.samples.select("sample_id", "user_id", "item_id", "history_id", "split", recent)
    source = source_rows(inputs.samples, inputs.histories, inputs.interactions)
    of_item = source.group_by("item_id").agg(ratings=pl.len())
    lengths = inputs.histories.select("history_id", length=pl.col("item_ids").list.len())
    of_user = inputs.interactions.group_by("user_id").agg(activity=pl.len())
    rows = (
        samples.join(of_item, on="item_id", how="left", maintain_order="left")
        .join(lengths, on="history_id", how="left", maintain_order="left")
        .join(_quintiles(samples, of_user), on=["split", "user_id"], how="left", maintain_order="left")
    )
    kinds = [
        pl.when(pl.col("ratings").fill_null(0) <= COLD_ITEM).then(pl.lit("cold_items")).otherwise(pl.lit("warm_items")),
        pl.when(pl.col("length") <= SHORT_HISTORY).then(pl.lit("short_history")).otherwise(pl.lit("long_history")),
        pl.format("activity_{}", "quintile"),
    ]
    if inputs.seen_users is not None:
        seen = pl.col("user_id").is_in(list(inputs.seen_users))
        kinds.append(pl.when(seen).then(pl.lit("seen_users")).otherwise(pl.lit("unseen_users")))
    cold = rows.filter((pl.col("length") == 0) & (pl.col("recent") == 0))
    slices = [rows.select("sample_id", slice=kind) for kind in kinds]
    return pl.concat([*slices, cold.select("sample_id", slice=pl.lit("cold_users"))])


def _quintiles(samples: pl.DataFrame, of_user: pl.DataFrame) -> pl.DataFrame:
    """Each user's quintile of activity among the users of a split, 1 to 5; ties are ordered by user id."""
    users = samples.select("split", "user_id").unique().join(of_user, on="user_id", how="left")
    users = users.sort("split", "activity", "user_id")
    position = pl.int_range(pl.len()).over("split")
    return users.select("split", "user_id", quintile=1 + position * _QUINTILES // pl.len().over("split"))
