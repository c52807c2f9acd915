"""Stage ``rec_tune``: Rec-Tuning of V before the rounds, in a round, and without any text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from trackrec.ctr.arms.shuffle import other_texts
from trackrec.llm.packing import tree_tokens
from trackrec.recipe.book import prompt_book
from trackrec.recipe.cohort import held_rows_of, targets_by_history, tuning_limit, tuning_rows_of
from trackrec.recipe.models import language_model, new_adapter
from trackrec.recipe.names import DATA, TEACHER, WARMUP, existing, in_round, without_text
from trackrec.recipe.stage import RecipeStage
from trackrec.recipe.stage_keys import PLAYERS, TUNED, VALIDATOR
from trackrec.recipe.tables import empty_histories, texts_of
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
        return _tune(exp, out, WARMUP, rows, texts_of(exp, self._texts), None, [0])


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
        return _tune(exp, out, name, rows, texts, self.start, self.rounds, exp.loop.validator_lr)


@dataclass(frozen=True)
class PlainRecTune(RecipeStage):
    """The comparison: Rec-Tuning of V on the same rows in the same way, without any text."""

    turns: tuple[int, ...]
    reads_teacher: bool
    section = "rec_tune"
    name = without_text("rec_tune")
    keys = (*VALIDATOR, "rec_tune", *TUNED)

    @property
    def inputs(self) -> tuple[str, ...]:
        """See `RecipeStage.inputs`."""
        return (DATA, TEACHER) if self.reads_teacher else (DATA,)

    def run(self, exp: Experiment, out: Path) -> dict[str, Any]:
        """See `RecipeStage.run`."""
        rows = tuning_rows_of(exp, self.turns)
        return _tune(exp, out, "plain", rows, dict.fromkeys(rows["history_id"].to_list()), None, self.turns)


def _tune(
    exp: Experiment,
    out: Path,
    name: str,
    rows: pl.DataFrame,
    texts: Mapping[str, str | None],
    start: str | None,
    turns: Sequence[int],
    lr: float | None = None,
) -> dict[str, Any]:
    """Tune an adapter on rows of the samples table.

    Args:
        exp: the run.
        out: the stage directory.
        name: of the adapter.
        rows: V's questions.
        texts: the text of each history; None trains without one.
        start: the stage whose V goes on; None is a fresh adapter.
        turns: whose rows these are; the order of the examples is seeded by the last.
        lr: instead of ``rec_tune.model.lr``.
    """
    from trackrec.recipe.training import fit
    from trackrec.validator.data import RecTuneData
    from trackrec.validator.module import RecTuningModule

    section, lm = exp.rec_tune, language_model(exp, "validator")
    adapter = new_adapter(exp, lm, f"{name}-rec_tune", start)
    options = {**section.data, "samples_per_history": tuning_limit(exp) * len(turns)}
    seed = exp.seed + max(turns)
    held = held_rows_of(exp, rows["history_id"].unique())
    needed = section.data.get("contrast") or section.data.get("wrong_texts")
    others = _wrong_texts(exp, rows, texts, seed) if needed else None
    targets = targets_by_history(rows), targets_by_history(held)
    data = RecTuneData(lm, prompt_book(exp), texts, *targets, seed=seed, others=others, **options)
    data.setup("fit")
    lm.check_packing(max((entry.tree for entry in data.examples), key=len), adapter)
    tokens = sum(tree_tokens(entry.tree) for entry in data.examples)
    module = RecTuningModule(lm, adapter, **section.model | ({} if lr is None else {"lr": lr}))
    notes = fit(exp, out, module, data, section, len(data.examples), tokens)
    return {**notes, "tuning_rows": len(rows), **({"held_rows": len(held)} if len(held) else {}), **data.counts}


def _wrong_texts(exp: Experiment, rows: pl.DataFrame, texts: Mapping[str, str | None], seed: int) -> dict[str, str]:
    """Another user's text for each history; none for empty histories, which all have the same, and without texts."""
    owners = dict(rows.select("history_id", "user_id").iter_rows())
    empty = empty_histories(exp)
    own = {key: text for key in owners if key not in empty and (text := texts[key]) is not None}
    return other_texts(own, owners, seed) if own else {}
