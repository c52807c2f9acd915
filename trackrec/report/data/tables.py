"""The tables that the facts about the ratings are computed from."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl


class DataTables(NamedTuple):
    """The tables that the stage ``data`` keeps; the last two are None where the rules leave no sample."""

    items: pl.DataFrame
    users: pl.DataFrame
    interactions: pl.DataFrame
    histories: pl.DataFrame | None
    samples: pl.DataFrame | None

    def scored_histories(self) -> int:
        """Train histories that have both a like and a dislike among the samples that score their texts."""
        if self.samples is None:
            return 0
        rewards = self.samples.filter(pl.col("use") == "reward")
        both = rewards.group_by("history_id").agg(pl.col("label").n_unique()).filter(pl.col("label") > 1)
        return both.height
