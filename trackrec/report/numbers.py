"""Numbers of the metrics tables, as a report shows them."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import polars as pl

from trackrec.metrics.intervals import Interval
from trackrec.report.render.document import Num, Unit
from trackrec.runs.files import RunFiles

_KEY = ("stage", "round", "split", "arm", "name", "slice")


class RunNumbers(RunFiles):
    """The files of a run, and its metrics by their key; see `RunFiles`."""

    @cached_property
    def _cells(self) -> dict[tuple[Any, ...], Interval]:
        over_seeds = self.metrics.filter(pl.col("seed") == -1)
        names = (*_KEY, "value", "ci_low", "ci_high", "n")
        return {row[:6]: Interval(*row[6:]) for row in over_seeds.select(names).iter_rows()}

    def measured(
        self,
        stage: str,
        split: str,
        arm: str,
        name: str,
        round_: int = -1,
        unit: Unit = "score",
        part: str = "all",
    ) -> Num | None:
        """One number of the metrics tables, of all rows or one slice; None where it wasn't measured."""
        interval = self._cells.get((stage, round_, split, arm, name, part))
        return None if interval is None else as_num(interval, unit)

    def ceiling(self, split: str, name: str, reader: str = "bayes") -> Num | None:
        """The best possible value, if a metrics table holds a row ``<reader>_<name>`` of that split; else None.

        In a simulated world the probability behind each label is known, and with it the AUC of a perfect model.

        Args:
            split: of the rows.
            name: of the metric.
            reader: ``bayes`` knows the true probabilities, ``told`` is the best predictor from the histories.
        """
        rows = self.metrics.filter((pl.col("name") == f"{reader}_{name}") & (pl.col("split") == split))
        if not len(rows):
            return None
        return as_num(Interval(*rows.select("value", "ci_low", "ci_high", "n").row(0)))

    def arms(self, stage: str, split: str) -> list[str]:
        """Arms of a stage's metrics."""
        rows = self.metrics.filter((pl.col("stage") == stage) & (pl.col("split") == split))
        return rows["arm"].unique(maintain_order=True).to_list()

    def names(self, stage: str, split: str, arm: str) -> list[str]:
        """Names of an arm's metrics on all rows."""
        rows = self._of_arm(stage, split, arm).filter((pl.col("slice") == "all") & (pl.col("seed") == -1))
        return rows["name"].unique(maintain_order=True).to_list()

    def slices(self, stage: str, split: str, arm: str) -> list[str]:
        """Parts of the rows on which an arm was measured separately."""
        return sorted(set(self._of_arm(stage, split, arm)["slice"]) - {"all"})

    def _of_arm(self, stage: str, split: str, arm: str) -> pl.DataFrame:
        return self.metrics.filter((pl.col("stage") == stage) & (pl.col("split") == split) & (pl.col("arm") == arm))


def intervals_note(seeds: int) -> str:
    """What the intervals of the CTR arms cover, by the number of training seeds."""
    if seeds == 1:
        return "Intervals are 95 %, over users only: one training seed says nothing about the chance of training."
    return f"Intervals are 95 %, over users and {seeds} training seeds together."


def as_num(value: Interval, unit: Unit = "score") -> Num:
    """An interval as a report shows it."""
    low, high = (math.nan if end is None else end for end in (value.low, value.high))
    return Num(value.value, low, high, value.n, unit)
