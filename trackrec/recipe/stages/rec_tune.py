"""Stage ``rec_tune``: Rec-Tuning of V before the rounds and in a round."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackrec.recipe.cohort import tuning_rows_of
from trackrec.recipe.names import DATA, TEACHER, WARMUP, existing, in_round
from trackrec.recipe.stage import RecipeStage
from trackrec.recipe.stage_keys import PLAYERS, VALIDATOR
from trackrec.recipe.tables import texts_of
from trackrec.recipe.tuning import tune
from trackrec.runtime.errors import SettingError

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment


@dataclass(frozen=True)
class WarmUp(RecipeStage):
    """Rec-Tuning of a fresh V before round 1, on greedy texts or, with ``loop.warmup_users``, the teacher's."""

    from_teacher: bool
    section = "rec_tune"
    name = in_round(0, "rec_tune")
    keys = (*VALIDATOR, "rec_tune", "loop.warmup_users", *PLAYERS)

    @property
    def inputs(self) -> tuple[str, ...]:
        """See `RecipeStage.inputs`."""
        return (DATA, self._texts)

    @property
    def _texts(self) -> str:
        return TEACHER if self.from_teacher else in_round(0, "greedy")

    def run(self, exp: Experiment, out: Path) -> dict[str, Any]:
        """See `RecipeStage.run`."""
        rows = tuning_rows_of(exp, [0])
        if not len(rows):
            raise SettingError("the teacher wrote about no history that warms V up: raise teacher.init_args.fraction.")
        return tune(exp, out, WARMUP, rows, texts_of(exp, self._texts), None, [0])


@dataclass(frozen=True)
class RecTune(RecipeStage):
    """Rec-Tuning of V on the rows of one round or several, with the greedy texts of the last."""

    rounds: tuple[int, ...]
    start: str | None
    section = "rec_tune"
    keys = (*VALIDATOR, "rec_tune", "loop.validator_start", "loop.validator_lr", "loop.alternate", *PLAYERS)

    @property
    def name(self) -> str:
        """See `RecipeStage.name`."""
        return in_round(self.rounds[-1], "rec_tune")

    @property
    def inputs(self) -> tuple[str, ...]:
        """See `RecipeStage.inputs`."""
        return existing(DATA, in_round(self.rounds[-1], "greedy"), self.start)

    def run(self, exp: Experiment, out: Path) -> dict[str, Any]:
        """See `RecipeStage.run`."""
        texts = texts_of(exp, in_round(self.rounds[-1], "greedy"))
        rows, name = tuning_rows_of(exp, self.rounds), self.name.partition("/")[0]
        return tune(exp, out, name, rows, texts, self.start, self.rounds, exp.loop.validator_lr)
