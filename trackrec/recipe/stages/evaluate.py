"""Stage ``evaluate``: G and V on validation rows, with the texts of a round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from trackrec.metrics.intervals import Interval, metric_rows
from trackrec.metrics.names import TEXT_USE
from trackrec.metrics.texts import distinct_n, mean_words
from trackrec.recipe.cohort import cohort_of, shown_half
from trackrec.recipe.names import DATA, existing, in_round
from trackrec.recipe.reading import measure_reading
from trackrec.recipe.scoring import PARTS_PER_VALIDATOR, add_counts, measure_texts
from trackrec.recipe.stage import RecipeStage
from trackrec.recipe.stage_keys import EVALUATED, VALIDATOR
from trackrec.recipe.tables import empty_histories, texts_of
from trackrec.storage.parts import write_part

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment


@dataclass(frozen=True)
class Evaluate(RecipeStage):
    """What a round changed, on validation rows: G's texts by the V that scored its draws, V by its answers.

    The V that the round ended with also answers with the text about another user (source ``shuffled``, arm ``other``):
    the difference tells whether it reads (`trackrec.validator.evaluate.text_use`).

    Attributes:
        round: whose texts are read; 0 is before the rounds.
        scorer: the stage of the V that scored the round's draws; its rows of the metrics table are filed as ``scorer``.
        tuned: the stage of the V that the round ended with.
    """

    round: int
    scorer: str | None
    tuned: str | None
    by_part = True
    keys = (*VALIDATOR, "scoring", *EVALUATED)

    @property
    def name(self) -> str:
        """See `RecipeStage.name`."""
        return in_round(self.round, "evaluate")

    @property
    def inputs(self) -> tuple[str, ...]:
        """See `RecipeStage.inputs`."""
        return existing(DATA, in_round(self.round, "greedy"), self.scorer, self.tuned)

    def classes(self, exp: Experiment) -> tuple[str, ...]:
        """The engine that reads V's answers."""
        return (exp.scoring.reader_path,)

    def outside(self, exp: Experiment) -> Mapping[str, str]:
        """See `shown_half`."""
        return shown_half(exp)

    def run(self, exp: Experiment, out: Path) -> dict[str, Any]:
        """See `RecipeStage.run`."""
        written_by = in_round(self.round, "greedy")
        greedy, texts = exp.table(written_by, "reccots"), texts_of(exp, written_by)
        validators = {"scorer": self.scorer} | ({} if self.scorer == self.tuned else {"tuned": self.tuned})
        notes: dict[str, Any] = {}
        rows: list[dict[str, Any]] = []
        for number, (arm, validator) in enumerate(validators.items()):
            first, valid = PARTS_PER_VALIDATOR * number, cohort_of(exp).valid
            one, values = measure_texts(exp, out, valid, texts, validator, greedy["source"][0], self.round, first)
            notes = add_counts(notes, one)
            rows.extend(metric_rows(values, stage=self.name, round=self.round, split="valid", arm=arm))
        written = greedy.filter(~pl.col("history_id").is_in(list(empty_histories(exp))))
        rows.extend(metric_rows(text_metrics(written), stage=self.name, round=self.round, split="all", arm="texts"))
        first, source = PARTS_PER_VALIDATOR * (number + 1), greedy["source"][0]
        if read := measure_reading(exp, out, cohort_of(exp).valid, texts, self.tuned, source, self.round, first):
            key = {"stage": self.name, "round": self.round, "split": "valid"}
            rows.extend(metric_rows(read.others, arm="other", **key))
            rows.extend(metric_rows({TEXT_USE: read.use}, arm=arm, **key))
        write_part(out, "metrics", rows)
        return notes


def text_metrics(texts: pl.DataFrame) -> dict[str, Interval]:
    """Diversity, length and cut share of some texts."""
    words = texts["text"].to_list()
    values = {
        "distinct_2": distinct_n(words, 2),
        "mean_words": mean_words(words),
        "cut_share": float((texts["finish_reason"] == "length").mean() or 0.0),  # type: ignore[arg-type]
    }
    nan = float("nan")
    return {name: Interval(value, nan, nan, len(words)) for name, value in values.items()}
