"""Stage ``preferences``: one preference set per history, and how reliable the rewards are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from trackrec.align.preferences import build_preferences, collect_draws
from trackrec.align.reliability import RELIABILITY, measure_rewards
from trackrec.metrics.intervals import Interval, metric_rows, user_bootstrap
from trackrec.prompts.grounding import checker_of
from trackrec.recipe.book import prompt_book
from trackrec.recipe.cohort import cohort_of
from trackrec.recipe.names import DATA, WITHOUT_TEXT, in_round
from trackrec.recipe.stage import RecipeStage
from trackrec.recipe.stage_keys import PLAYERS, SEEN_BY_GENERATOR
from trackrec.recipe.tables import sample_rows
from trackrec.storage.parts import read_table, write_part

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment

_RESAMPLES = 500


@dataclass(frozen=True)
class Preferences(RecipeStage):
    """The draws of a round and V's scores of them, as one preference set per history.

    The metrics table holds how reliable the rewards are (see `measure_rewards`), the mean ``log_gain`` where that is
    the reward, and the mean share of ``ungrounded`` claims where they cost something.
    """

    round: int
    keys = ("align.sets", *PLAYERS, *SEEN_BY_GENERATOR)

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
        stage, sets = in_round(self.round, "score"), exp.sets
        scores = exp.table(stage, "scores")
        without = read_table(exp.directory(stage) / WITHOUT_TEXT, "scores") if sets.reward == "log_gain" else None
        shares = ungrounded_shares(exp, draws) if sets.ungrounded else {}
        costs = {key: sets.ungrounded * share for key, share in shares.items()}
        samples, left_out = sample_rows(exp), len(cohort_of(exp).left_out)
        scored, correlation = collect_draws(draws, scores, samples, without, costs)
        made = build_preferences(scored, sets, draws["source"][0], self.round, exp.seed)
        write_part(out, "preferences", made.rows)
        measured = measure_rewards(draws, scores, samples, exp.seed, sets.reward)
        owners = dict(exp.table(DATA, "histories").select("history_id", "user_id").iter_rows())
        if without is not None:
            gains = [(owners[key], draw.reward + draw.cost) for key, found in scored.items() for draw in found]
            measured["log_gain"] = _mean(gains, exp.seed)
        if shares:
            measured["ungrounded"] = _mean([(owners[key], share) for (key, _), share in shares.items()], exp.seed)
        rows = metric_rows(measured, stage=self.name, round=self.round, split="train", arm="scorer")
        write_part(out, "metrics", rows)
        counts = {"left_out": left_out, **made.counts, "reward_label_correlation": correlation}
        counts |= {name: measured[name].value for name in ("log_gain", "ungrounded") if name in measured}
        found = measured[RELIABILITY]
        return {**counts, **({RELIABILITY: found.value} if found.n else {"reliability": "not measurable"})}


def ungrounded_shares(exp: Experiment, draws: pl.DataFrame) -> dict[tuple[str, int], float]:
    """By (history, draw) the share of a text's claims that nothing supports in what G was shown; 0 without a claim."""
    items, book = exp.table(DATA, "items"), prompt_book(exp)
    attributes = items["attributes"].explode().drop_nulls().unique().to_list()
    checker = checker_of(draws["text"].to_list(), items["title"].to_list(), attributes)
    shown = {key: book.evidence(key) for key in draws["history_id"].unique()}
    found = {
        (key, draw): checker.check(text, shown[key])
        for key, draw, text in draws.select("history_id", "draw", "text").iter_rows()
    }
    return {key: claims.unsupported / max(1, claims.claims) for key, claims in found.items()}


def _mean(values: Sequence[tuple[str, float]], seed: int) -> Interval:
    """The mean over draws of a number, with its interval; each comes with its user."""
    users, numbers = (np.array(column) for column in zip(*values, strict=True))
    return user_bootstrap(lambda found: float(np.mean(found)), users, numbers, n_resamples=_RESAMPLES, seed=seed)
