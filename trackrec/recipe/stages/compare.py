"""Stages ``rec_tune`` and ``evaluate`` of the comparisons: a V that reads something else than the RecCoT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackrec.metrics.intervals import metric_rows
from trackrec.recipe.cohort import cohort_of, shown_half, tuning_rows_of
from trackrec.recipe.comparisons import Comparison
from trackrec.recipe.names import DATA, PLAIN, TEACHER, existing, in_comparison
from trackrec.recipe.scoring import PARTS_PER_VALIDATOR, add_counts, measure_texts
from trackrec.recipe.stage import RecipeStage
from trackrec.recipe.stage_keys import EVALUATED, TUNED, VALIDATOR
from trackrec.recipe.tuning import tune
from trackrec.storage.parts import write_part

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment


@dataclass(frozen=True)
class TuneCompared(RecipeStage):
    """Rec-Tuning of a fresh V on the rows of the last V in the same way, with what the comparison reads.

    Attributes:
        comparison: what it reads.
        turns: whose rows these are; see `trackrec.recipe.cohort.tuning_turns`.
        warmed_by_teacher: the rows of turn 0 are those of the histories about which the teacher wrote.
    """

    comparison: Comparison
    turns: tuple[int, ...]
    warmed_by_teacher: bool
    section = "rec_tune"

    @property
    def name(self) -> str:
        """See `RecipeStage.name`."""
        return in_comparison(self.comparison.name, "rec_tune")

    @property
    def keys(self) -> tuple[str, ...]:
        """See `RecipeStage.keys`."""
        return (*VALIDATOR, "rec_tune", *TUNED, *self.comparison.keys)

    @property
    def inputs(self) -> tuple[str, ...]:
        """See `RecipeStage.inputs`."""
        return existing(DATA, TEACHER if self.warmed_by_teacher else None, *self.comparison.stages(tunes=True))

    def run(self, exp: Experiment, out: Path) -> dict[str, Any]:
        """See `RecipeStage.run`."""
        rows = tuning_rows_of(exp, self.turns)
        read = self.comparison.reading(exp, rows["history_id"].to_list(), tunes=True)
        notes = tune(exp, out, self.comparison.arm, rows, read.texts, None, self.turns, book=read.book)
        return {**notes, **read.notes}


@dataclass(frozen=True)
class EvaluateCompared(RecipeStage):
    """The V of a comparison on the validation rows of the last V; beside the one without text, the untuned V.

    Attributes:
        comparison: what it reads.
        tuned: the stage of its V; None where none was tuned: then it is the base model.
    """

    comparison: Comparison
    tuned: str | None
    by_part = True

    @property
    def name(self) -> str:
        """See `RecipeStage.name`."""
        return in_comparison(self.comparison.name, "evaluate")

    @property
    def keys(self) -> tuple[str, ...]:
        """See `RecipeStage.keys`."""
        return (*VALIDATOR, "scoring", *EVALUATED, *self.comparison.keys)

    @property
    def inputs(self) -> tuple[str, ...]:
        """See `RecipeStage.inputs`."""
        return existing(DATA, self.tuned, *self.comparison.stages(tunes=False))

    def classes(self, exp: Experiment) -> tuple[str, ...]:
        """The engine that reads V's answers."""
        return (exp.scoring.reader_path,)

    def outside(self, exp: Experiment) -> Mapping[str, str]:
        """See `shown_half`."""
        return shown_half(exp)

    def run(self, exp: Experiment, out: Path) -> dict[str, Any]:
        """See `RecipeStage.run`."""
        valid, source = cohort_of(exp).valid, self.comparison.source
        read = self.comparison.reading(exp, valid["history_id"].to_list(), tunes=False)
        validators: dict[str, str | None] = {"untuned": None} if self.comparison.name == PLAIN else {}
        if self.tuned or not validators:
            validators[self.comparison.arm] = self.tuned
        notes: dict[str, Any] = {}
        rows: list[dict[str, Any]] = []
        for number, (arm, validator) in enumerate(validators.items()):
            first = PARTS_PER_VALIDATOR * number
            one, values = measure_texts(exp, out, valid, read.texts, validator, source, 0, first, read.book)
            notes = add_counts(notes, one)
            rows.extend(metric_rows(values, stage=self.name, split="valid", arm=arm))
        write_part(out, "metrics", rows)
        return {**notes, **read.notes}
