"""The tables of a run that several stages read, each read once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from trackrec.recipe.names import DATA
from trackrec.storage.parts import read_table

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment


def like_threshold(exp: Experiment) -> float:
    """A rating above it is a like. Rounded to float32 like the ratings, so that equality compares exactly."""
    own = exp.samples.threshold
    return float(np.float32(exp.dataset.threshold if own is None else own))


def sample_rows(exp: Experiment) -> pl.DataFrame:
    """The samples table."""
    return exp.once("samples", lambda: exp.table(DATA, "samples"))


def empty_histories(exp: Experiment) -> frozenset[str]:
    """Histories without an item, those of cold users; there are none unless ``samples.min_history`` is 0."""
    return exp.once("empty", lambda: without_items(exp.table(DATA, "histories")))


def without_items(histories: pl.DataFrame) -> frozenset[str]:
    """Ids of the empty ones of some rows of the histories table."""
    return frozenset(histories.filter(pl.col("item_ids").list.len() == 0)["history_id"].to_list())


def texts_of(exp: Experiment, stage: str) -> dict[str, str]:
    """The one text per history that a stage wrote."""
    return texts_in(exp.directory(stage))


def texts_in(directory: Path) -> dict[str, str]:
    """The one text per history of a directory's reccots table."""
    return dict(read_table(directory, "reccots").select("history_id", "text").iter_rows())
