"""Stage ``test``: V and every CTR arm on the test split, where the run has a loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackrec.metrics.intervals import metric_rows
from trackrec.recipe.cohort import cohort_of
from trackrec.recipe.names import CTR, DATA, TEST, TEXTS, existing
from trackrec.recipe.scoring import PARTS_PER_VALIDATOR, add_counts, measure_texts
from trackrec.recipe.stage import RecipeStage
from trackrec.recipe.stage_keys import TESTED, VALIDATOR
from trackrec.recipe.stages.test_ratings import measure_arms
from trackrec.recipe.tables import texts_of
from trackrec.recipe.test_reads import count_read
from trackrec.storage.parts import write_part

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment


@dataclass(frozen=True)
class ReadTest(RecipeStage):
    """V with and without RecCoT, and every CTR arm, on test rows.

    Attributes:
        validator: the stage of the last V; None is the base model.
        plain: the stage of the V that was tuned without texts; None where none was.
    """

    validator: str | None
    plain: str | None
    name = TEST
    by_part = True
    keys = (*VALIDATOR, "scoring", *TESTED)

    @property
    def inputs(self) -> tuple[str, ...]:
        """See `RecipeStage.inputs`."""
        return existing(DATA, TEXTS, CTR, self.validator, self.plain)

    def classes(self, exp: Experiment) -> tuple[str, ...]:
        """The engine that reads V's answers."""
        return (exp.scoring.reader_path,)

    def run(self, exp: Experiment, out: Path) -> dict[str, Any]:
        """See `RecipeStage.run`."""
        reads = count_read(exp)
        notes, found = self._measure_validators(exp, out)
        write_part(out, "metrics", [*found, *measure_arms(exp)])
        return {**notes, "test_reads": reads}

    def _measure_validators(self, exp: Experiment, out: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """V on test rows: counts for the manifest, and rows of the metrics table."""
        texts: dict[str, str | None] = dict(texts_of(exp, TEXTS))
        rows = cohort_of(exp).test
        nothing = dict.fromkeys(rows["history_id"].to_list())
        jobs = [
            ("reccot", self.validator, texts),
            *([("plain", self.plain, nothing)] if self.plain else []),
            ("untuned", None, nothing),
        ]
        found: list[dict[str, Any]] = []
        notes: dict[str, Any] = {}
        for number, (arm, validator, given) in enumerate(jobs):
            source = "texts" if arm == "reccot" else "none"
            first = PARTS_PER_VALIDATOR * number
            one, values = measure_texts(exp, out, rows, given, validator, source, -1, first)
            notes = add_counts(notes, one)
            found.extend(metric_rows(values, stage=TEST, split="test", arm=f"validator/{arm}"))
        return notes, found
