"""Stage ``preferences``: one preference set per history, and how reliable the rewards are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackrec.align.preferences import build_preferences, collect_draws
from trackrec.align.reliability import RELIABILITY, measure_rewards
from trackrec.metrics.intervals import metric_rows
from trackrec.recipe.cohort import cohort_of
from trackrec.recipe.names import DATA, in_round
from trackrec.recipe.stage import RecipeStage
from trackrec.recipe.stage_keys import PLAYERS
from trackrec.recipe.tables import sample_rows
from trackrec.storage.parts import write_part

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment


@dataclass(frozen=True)
class Preferences(RecipeStage):
    """The draws of a round and V's scores of them, as one preference set per history.

    The metrics table holds how reliable the rewards are; see `measure_rewards`.
    """

    round: int
    keys = ("align.sets", *PLAYERS)

    @property
    def name(self) -> str:
        """See `RecipeStage.name`."""
        return in_round(self.round, "preferences")

    @property
    def inputs(self) -> tuple[str, ...]:
        """See `RecipeStage.inputs`."""
        return (DATA, in_round(self.round, "sample"), in_round(self.round, "score"))

    def run(self, exp: Experiment, out: Path) -> dict[str, Any]:
        """See `RecipeStage.run`."""
        draws = exp.table(in_round(self.round, "sample"), "reccots")
        scores = exp.table(in_round(self.round, "score"), "scores")
        samples, left_out = sample_rows(exp), len(cohort_of(exp).left_out)
        scored, correlation = collect_draws(draws, scores, samples)
        made = build_preferences(scored, exp.sets, draws["source"][0], self.round, exp.seed)
        write_part(out, "preferences", made.rows)
        measured = measure_rewards(draws, scores, samples, exp.seed)
        rows = metric_rows(measured, stage=self.name, round=self.round, split="train", arm="scorer")
        write_part(out, "metrics", rows)
        counts = {"left_out": left_out, **made.counts, "reward_label_correlation": correlation}
        found = measured[RELIABILITY]
        return {**counts, **({RELIABILITY: found.value} if found.n else {"reliability": "not measurable"})}
