"""Stage ``data``: ratings to histories and labelled samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from trackrec.interactions.samples.samples import SampleTables, build_samples, check_labels, check_splits
from trackrec.metrics.intervals import Interval, metric_rows
from trackrec.recipe.names import DATA
from trackrec.recipe.stage import RecipeStage
from trackrec.recipe.tables import like_threshold
from trackrec.storage.parts import write_part

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment

# Lists of a part together must stay below 2**31 bytes.
_SAMPLES_PER_PART = 1_000_000


@dataclass(frozen=True)
class Data(RecipeStage):
    """Ratings to histories and labelled samples."""

    name = DATA
    keys = ("dataset", "samples")
    inputs = ()

    def outside(self, exp: Experiment) -> Mapping[str, str]:
        """The hash of every file that the dataset reads."""
        return exp.dataset.content_key()

    def run(self, exp: Experiment, out: Path) -> dict[str, Any]:
        """See `RecipeStage.run`."""
        ratings = exp.dataset.read()
        for notice in ratings.notices:
            exp.say(f"    {notice}")
        threshold = like_threshold(exp)
        tables = build_samples(ratings, replace(exp.samples, threshold=threshold), threshold, exp.seed)
        check_labels(tables.samples, ratings.interactions, threshold)
        check_splits(tables.samples)
        for name in ("items", "users", "interactions"):
            write_part(out, name, getattr(ratings, name))
        write_part(out, "histories", tables.histories)
        for part, some in enumerate(tables.samples.iter_slices(_SAMPLES_PER_PART)):
            write_part(out, "samples", some, part)
        if ceilings := _ceilings(exp, tables, threshold):
            write_part(out, "metrics", ceilings)
        notices = {"notices": list(ratings.notices)} if ratings.notices else {}
        return {**ratings.counts, **tables.counts, "threshold": threshold, **notices}


def _ceilings(exp: Experiment, tables: SampleTables, threshold: float) -> list[dict[str, Any]]:
    """What can be reached on the rows of each held-out split, where the ratings' source knows it."""
    rows: list[dict[str, Any]] = []
    for split in ("valid", "test"):
        samples = tables.samples.filter(pl.col("split") == split)
        values = exp.dataset.ceilings(samples, tables.histories, threshold)
        known = {name: Interval(value, float("nan"), float("nan"), len(samples)) for name, value in values.items()}
        rows.extend(metric_rows(known, stage=DATA, split=split, arm="ceiling"))
    return rows
