"""Stages ``texts`` of the comparisons: the teacher's and the untuned model's texts, for a V to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackrec.distill.texts import write_teacher_texts
from trackrec.recipe.book import prompt_book
from trackrec.recipe.cohort import cohort_of, shown_half, tuning_rows_of
from trackrec.recipe.names import DATA, TEACHER, in_comparison
from trackrec.recipe.stage import RecipeStage
from trackrec.recipe.stage_keys import GENERATOR, SEEN_BY_GENERATOR, TESTED, TUNED
from trackrec.recipe.tables import texts_of
from trackrec.recipe.writing import write_texts
from trackrec.storage.parts import write_part

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment


@dataclass(frozen=True)
class TeacherOnEvaluated(RecipeStage):
    """The teacher's texts about the validation and test histories of V that the stage ``teacher`` has none of.

    They stand apart from that stage's, so that G isn't distilled on them and no V is tuned on them.
    """

    name = in_comparison("teacher", "texts")
    keys = ("teacher", *SEEN_BY_GENERATOR, "loop.wrong_teacher", *TESTED)
    inputs = (DATA, TEACHER)

    def outside(self, exp: Experiment) -> Mapping[str, str]:
        """The hash of the files that the teacher reads; see `shown_half` too."""
        return {**exp.teacher.content_key(), **shown_half(exp)}

    def run(self, exp: Experiment, out: Path) -> dict[str, Any]:
        """See `RecipeStage.run`."""
        cohort, book = cohort_of(exp), prompt_book(exp)
        evaluated = {*cohort.valid["history_id"].to_list(), *cohort.test["history_id"].to_list()}
        wanted = sorted(key for key in evaluated - texts_of(exp, TEACHER).keys() if not book.is_empty(key))
        if not wanted:
            write_part(out, "reccots", [])
            return {"asked": 0}
        return write_teacher_texts(exp.teacher, book, wanted, out, exp.seed, exp.loop.wrong_teacher, every=True)


@dataclass(frozen=True)
class UntunedForValidator(RecipeStage):
    """Greedy texts of the base model about every history on which V is tuned or evaluated.

    Attributes:
        turns: whose rows tune V.
        warmed_by_teacher: see `trackrec.recipe.stages.compare.TuneCompared`.
    """

    turns: tuple[int, ...]
    warmed_by_teacher: bool
    name = in_comparison("untuned", "texts")
    by_part = True
    keys = (*GENERATOR, "sampler", *TUNED, *TESTED)

    @property
    def inputs(self) -> tuple[str, ...]:
        """See `RecipeStage.inputs`."""
        return (DATA, TEACHER) if self.warmed_by_teacher else (DATA,)

    def outside(self, exp: Experiment) -> Mapping[str, str]:
        """See `shown_half`."""
        return shown_half(exp)

    def run(self, exp: Experiment, out: Path) -> dict[str, Any]:
        """See `RecipeStage.run`."""
        cohort = cohort_of(exp)
        parts = (tuning_rows_of(exp, self.turns), cohort.valid, cohort.test)
        wanted = {key for rows in parts for key in rows["history_id"].to_list()}
        return write_texts(exp, out, sorted(wanted), None, 0, greedy=True)
