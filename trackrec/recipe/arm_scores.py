"""V's scores of rows with the texts that it reads in an arm of the CTR nets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from trackrec.ctr.arms.scored_rows import texts_of_arm
from trackrec.recipe.names import DATA, TEXTS
from trackrec.recipe.scoring import score_texts, single_texts
from trackrec.recipe.tables import texts_of

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment

# A history with hundreds of targets would be one packed row of ten thousand tokens, and its mask a hundred million.
TARGETS_PER_TREE = 16


def score_arm(
    exp: Experiment, out: Path, rows: pl.DataFrame, arm: str, validator: str | None, part: int = 0
) -> dict[str, Any]:
    """Score rows of the samples table as an arm's V would.

    Args:
        exp: the run.
        out: the directory of the scores table.
        rows: V's questions.
        arm: ``reccot``, ``shuffled`` or ``plain``.
        validator: the stage of its V; None is the base model.
        part: number of the first part.

    Returns:
        Counts for a manifest.
    """
    given = texts_of_arm(texts_of(exp, TEXTS), exp.table(DATA, "histories"), arm, exp.seed)
    return score_texts(exp, out, rows, single_texts(given), validator, arm, exp.loop.rounds, part, TARGETS_PER_TREE)
