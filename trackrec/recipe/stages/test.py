"""Stage ``test``: V and every CTR arm on the test split, where the run has a loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackrec.metrics.intervals import metric_rows
from trackrec.metrics.names import TEXT_USE
from trackrec.recipe.book import prompt_book
from trackrec.recipe.cohort import cohort_of
from trackrec.recipe.comparisons import Comparison, Reading
from trackrec.recipe.names import CTR, DATA, PLAIN, TEST, TEXTS, existing
from trackrec.recipe.reading import measure_reading
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
    """V with and without RecCoT, the Vs of the comparisons, and every CTR arm, on test rows.

    Attributes:
        validator: the stage of the last V; None is the base model.
        compared: what the other Vs read, and the stage of each; None where no V was tuned.
    """

    validator: str | None
    compared: tuple[tuple[Comparison, str | None], ...]
    name = TEST
    by_part = True

    @property
    def keys(self) -> tuple[str, ...]:
        """See `RecipeStage.keys`."""
        more = (key for comparison, _ in self.compared for key in comparison.keys)
        return (*VALIDATOR, "scoring", *TESTED, *more)

    @property
    def inputs(self) -> tuple[str, ...]:
        """See `RecipeStage.inputs`."""
        read = (stage for comparison, tuned in self.compared for stage in (tuned, *comparison.stages(tunes=False)))
        return existing(DATA, TEXTS, CTR, self.validator, *read)

    def outside(self, exp: Experiment) -> Mapping[str, str]:
        """Which comparisons are read; the one without text always is."""
        names = [comparison.name for comparison, _ in self.compared if comparison.name != PLAIN]
        return {"comparisons": " ".join(names)} if names else {}

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
        rows, book = cohort_of(exp).test, prompt_book(exp)
        histories = rows["history_id"].to_list()
        texts = texts_of(exp, TEXTS)
        jobs = [
            ("reccot", self.validator, "texts", Reading(book, texts, {})),
            ("untuned", None, "none", Reading(book, dict.fromkeys(histories), {})),
        ]
        for comparison, tuned in self.compared:
            if tuned or comparison.name != PLAIN:
                read = comparison.reading(exp, histories, tunes=False)
                jobs.append((comparison.arm, tuned, comparison.source, read))
        found: list[dict[str, Any]] = []
        notes: dict[str, Any] = {}
        for number, (arm, validator, source, read) in enumerate(jobs):
            first = PARTS_PER_VALIDATOR * number
            one, values = measure_texts(exp, out, rows, read.texts, validator, source, -1, first, read.book)
            notes = add_counts(notes, one)
            found.extend(metric_rows(values, stage=TEST, split="test", arm=f"validator/{arm}"))
        first = PARTS_PER_VALIDATOR * len(jobs)
        if read_others := measure_reading(exp, out, rows, texts, self.validator, "texts", -1, first):
            found.extend(metric_rows(read_others.others, stage=TEST, split="test", arm="validator/other"))
            found.extend(metric_rows({TEXT_USE: read_others.use}, stage=TEST, split="test", arm="validator/reccot"))
        return notes, found
