"""Stage ``evaluate``: G and V on validation rows, with the texts of a round and without any."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from trackrec.ctr.arms.shuffle import other_texts
from trackrec.metrics.intervals import Interval, metric_rows
from trackrec.metrics.names import TEXT_USE
from trackrec.metrics.texts import distinct_n, mean_words
from trackrec.recipe.cohort import cohort_of
from trackrec.recipe.names import DATA, existing, in_round, without_text
from trackrec.recipe.scoring import BASE, PARTS_PER_VALIDATOR, add_counts, measure_texts
from trackrec.recipe.stage import RecipeStage
from trackrec.recipe.stage_keys import EVALUATED, VALIDATOR
from trackrec.recipe.tables import empty_histories, texts_of
from trackrec.storage.parts import read_table, write_part
from trackrec.validator.evaluate import scored_rows_of, text_use

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment

OTHERS = "shuffled"
"""The source under which V's scores with another user's text are filed."""


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

    def run(self, exp: Experiment, out: Path) -> dict[str, Any]:
        """See `RecipeStage.run`."""
        read = in_round(self.round, "greedy")
        greedy, texts = exp.table(read, "reccots"), texts_of(exp, read)
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
        rows.extend(self._reading(exp, out, texts, arm, greedy["source"][0], PARTS_PER_VALIDATOR * (number + 1)))
        write_part(out, "metrics", rows)
        return notes

    def _reading(
        self, exp: Experiment, out: Path, texts: dict[str, str], arm: str, source: str, first_part: int
    ) -> list[dict[str, Any]]:
        """Let the V that the round ended with score the rows with another user's text; rows of the metrics table.

        Rows of empty histories are left out, since all of those have the same text.
        """
        rows = cohort_of(exp).valid.filter(~pl.col("history_id").is_in(list(empty_histories(exp))))
        owners = dict(rows.select("history_id", "user_id").iter_rows())
        if len(set(owners.values())) < 2:
            exp.say("    whether V reads can't be measured: it takes texts about two users among the validation rows")
            return []
        other = other_texts({key: texts[key] for key in owners}, owners, exp.seed)
        _, values = measure_texts(exp, out, rows, other, self.tuned, OTHERS, self.round, first_part)
        scores, validator = read_table(out, "scores"), self.tuned or BASE
        own = scored_rows_of(scores, cohort_of(exp).valid, validator, source).join(rows, on="sample_id", how="semi")
        use = text_use(own.sort("sample_id"), scored_rows_of(scores, rows, validator, OTHERS), exp.seed)
        exp.say(f"    V reads: {signed(use.value)} [{signed(use.low, '')}, {signed(use.high, '')}] of AUC")
        key = {"stage": self.name, "round": self.round, "split": "valid"}
        return [*metric_rows(values, arm="other", **key), *metric_rows({TEXT_USE: use}, arm=arm, **key)]


@dataclass(frozen=True)
class EvaluatePlain(RecipeStage):
    """V without text on the same validation rows: untuned, and tuned on the same rows as the others, if any was."""

    tuned: str | None
    name = without_text("evaluate")
    by_part = True
    keys = (*VALIDATOR, "scoring", *EVALUATED)

    @property
    def inputs(self) -> tuple[str, ...]:
        """See `RecipeStage.inputs`."""
        return existing(DATA, self.tuned)

    def classes(self, exp: Experiment) -> tuple[str, ...]:
        """The engine that reads V's answers."""
        return (exp.scoring.reader_path,)

    def run(self, exp: Experiment, out: Path) -> dict[str, Any]:
        """See `RecipeStage.run`."""
        valid = cohort_of(exp).valid
        texts = dict.fromkeys(valid["history_id"].to_list())
        validators = {"untuned": None, "plain": self.tuned} if self.tuned else {"untuned": None}
        notes: dict[str, Any] = {}
        rows: list[dict[str, Any]] = []
        for number, (arm, validator) in enumerate(validators.items()):
            one, values = measure_texts(exp, out, valid, texts, validator, "none", 0, PARTS_PER_VALIDATOR * number)
            notes = add_counts(notes, one)
            rows.extend(metric_rows(values, stage=self.name, split="valid", arm=arm))
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


def signed(value: float, plus: str = "+") -> str:
    """Three decimals without the leading zero: ``+.036``, ``-.021``."""
    return f"{value:{plus}.3f}".replace("0.", ".", 1)
