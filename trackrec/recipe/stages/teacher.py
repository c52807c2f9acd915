"""Stage ``teacher``: the teacher's RecCoTs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackrec.distill.texts import write_teacher_texts
from trackrec.recipe.book import prompt_book
from trackrec.recipe.cohort import cohort_of
from trackrec.recipe.names import DATA, TEACHER
from trackrec.recipe.stage import RecipeStage
from trackrec.recipe.stage_keys import PLAYERS, SEEN_BY_GENERATOR

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment


@dataclass(frozen=True)
class TeacherTexts(RecipeStage):
    """The teacher's RecCoTs for its share of the histories that take part in the loop or warm V up."""

    name = TEACHER
    keys = ("teacher", *SEEN_BY_GENERATOR, "loop.warmup_users", "loop.wrong_teacher", *PLAYERS)
    inputs = (DATA,)

    def outside(self, exp: Experiment) -> Mapping[str, str]:
        """The hash of the files that the teacher reads."""
        return exp.teacher.content_key()

    def run(self, exp: Experiment, out: Path) -> dict[str, Any]:
        """See `RecipeStage.run`."""
        cohort = cohort_of(exp)
        wanted = sorted({*cohort.loop_histories, *cohort.warmup["history_id"].to_list()})
        return write_teacher_texts(exp.teacher, prompt_book(exp), wanted, out, exp.seed, exp.loop.wrong_teacher)
