"""Stage ``score``: V scores every draw of a round."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackrec.recipe.cohort import cohort_of
from trackrec.recipe.names import DATA, WITHOUT_TEXT, existing, in_round
from trackrec.recipe.scoring import add_counts, score_texts, single_texts
from trackrec.recipe.stage import RecipeStage
from trackrec.recipe.stage_keys import PLAYERS, VALIDATOR

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment


@dataclass(frozen=True)
class Score(RecipeStage):
    """V's scores of every draw of a round, on the reward rows of its history.

    For ``align.sets.reward: log_gain`` a scores table of its own, in the folder ``without_text``, holds those of the
    same rows without a text.
    """

    round: int
    validator: str | None
    by_part = True
    keys = (*VALIDATOR, "scoring", "align.sets.reward", *PLAYERS)

    @property
    def name(self) -> str:
        """See `RecipeStage.name`."""
        return in_round(self.round, "score")

    @property
    def inputs(self) -> tuple[str, ...]:
        """See `RecipeStage.inputs`."""
        return existing(DATA, in_round(self.round, "sample"), self.validator)

    def classes(self, exp: Experiment) -> tuple[str, ...]:
        """The engine that reads V's answers."""
        return (exp.scoring.reader_path,)

    def run(self, exp: Experiment, out: Path) -> dict[str, Any]:
        """See `RecipeStage.run`."""
        draws = exp.table(in_round(self.round, "sample"), "reccots")
        texts: dict[str, list[tuple[int, str | None]]] = {}
        for history_id, draw, text in draws.sort("history_id", "draw").select("history_id", "draw", "text").iter_rows():
            texts.setdefault(history_id, []).append((draw, text))
        source, round_ = draws["source"][0], draws["round"][0]
        rows = cohort_of(exp).reward
        notes = score_texts(exp, out, rows, texts, self.validator, source, round_)
        if exp.sets.reward == "log_gain":
            nothing = single_texts(dict.fromkeys(rows["history_id"].to_list()))
            bare = score_texts(exp, out / WITHOUT_TEXT, rows, nothing, self.validator, "none", round_)
            notes = add_counts(notes, bare)
        return notes
