"""Stage ``log_odds``: V scores the rows of the CTR nets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from trackrec.ctr.arms.scored_rows import rows_to_score
from trackrec.recipe.arm_scores import score_arm
from trackrec.recipe.cohort import learned_samples
from trackrec.recipe.names import DATA, LOG_ODDS, TEXTS, existing
from trackrec.recipe.scoring import add_counts
from trackrec.recipe.stage import RecipeStage
from trackrec.recipe.stage_keys import TUNED, VALIDATOR
from trackrec.recipe.tables import sample_rows, texts_of

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment


@dataclass(frozen=True)
class LogOdds(RecipeStage):
    """V's scores of the rows of the CTR nets: its log-odds are a feature of theirs.

    Rows whose labels V was tuned on, or G's texts rewarded for, are left out in every arm: their score would tell the
    label. So are rows of histories without a text.

    Attributes:
        validators: (arm, the stage of its V) pairs; None is the base model.
    """

    validators: tuple[tuple[str, str | None], ...]
    name = LOG_ODDS
    by_part = True
    keys = (*VALIDATOR, "scoring", "rec_tune.data", "ctr.text.score_rows", *TUNED)

    @property
    def inputs(self) -> tuple[str, ...]:
        """See `RecipeStage.inputs`."""
        return existing(DATA, TEXTS, *(stage for _, stage in self.validators))

    def classes(self, exp: Experiment) -> tuple[str, ...]:
        """The engine that reads V's answers."""
        return (exp.scoring.reader_path,)

    def outside(self, exp: Experiment) -> Mapping[str, str]:
        """Which arms are scored."""
        return {"arms": " ".join(arm for arm, _ in self.validators)}

    def run(self, exp: Experiment, out: Path) -> dict[str, Any]:
        """See `RecipeStage.run`."""
        samples = sample_rows(exp)
        with_text = samples.filter(pl.col("history_id").is_in(list(texts_of(exp, TEXTS))))
        free = with_text.filter(~pl.col("sample_id").is_in(list(learned_samples(exp))))
        rows = rows_to_score(free, exp.ctr.text.score_rows, exp.seed)
        notes: dict[str, Any] = {
            "without_text": len(samples) - len(with_text),
            "learned": len(with_text) - len(free),
        }
        part, counts = 0, dict[str, Any]()
        for arm, validator in self.validators:
            made = score_arm(exp, out, rows, arm, validator, part)
            part += -(-made["histories"] // exp.loop.shard_histories)
            counts = add_counts(counts, made)
        return {**notes, "rows": len(rows), **counts}
