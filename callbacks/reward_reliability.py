"""Is there anything in the validator's (V's) rewards for the generator (G) to learn from?"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from trackrec.align.reliability import RELIABILITY
from trackrec.runs.hooks import DoneStage

from .monitor import Gauge, Limits, Monitor


class RewardReliability(Monitor):
    """V orders a history's draws otherwise when it is asked about other items: the alignment learns from noise.

    Args:
        reliability: split-half correlation of the reward between a history's draws; see `trackrec.align.reliability`.
            At .1 the reward from all rows has a reliability of .18 (Spearman-Brown): a fifth of what distinguishes two
            draws is not noise. 60 histories of four draws give a standard error of about .08, 25 of .12, so at this
            limit noise passes at times and a useful reward seldom fails.
        least: with fewer histories the limits don't apply. Only those with two likes and two dislikes among their rows
            for rewards count: there are none where ``loop.targets`` is below 4.
    """

    low = ("reliability",)

    def __init__(self, reliability: Limits = Limits(0.1, None), least: int = 25) -> None:
        super().__init__(least, {"reliability": reliability})

    def measure(self, stage: DoneStage) -> Iterator[Gauge]:
        """After preferences stages."""
        if stage.kind != "preferences":
            return
        rows = stage.metrics.filter((pl.col("stage") == stage.name) & (pl.col("name") == RELIABILITY))
        advice = (
            "Alignment has nothing to learn from them. Raise loop.targets, tune V on more users (loop.warmup_users), "
            "or set loop.min_reliability to leave G as it is."
        )
        for value, n in rows.select("value", "n").iter_rows():
            yield Gauge("reliability", "the split-half correlation of the rewards", value, n, advice)
