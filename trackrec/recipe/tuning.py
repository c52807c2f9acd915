"""How stages tune V: rows, prompts, the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from trackrec.ctr.arms.shuffle import other_texts
from trackrec.llm.packing import tree_tokens
from trackrec.recipe.book import prompt_book
from trackrec.recipe.cohort import held_rows_of, targets_by_history, tuning_limit
from trackrec.recipe.models import language_model, new_adapter
from trackrec.recipe.tables import empty_histories

if TYPE_CHECKING:
    from trackrec.prompts.book import PromptBook
    from trackrec.recipe.experiment import Experiment


def tune(
    exp: Experiment,
    out: Path,
    name: str,
    rows: pl.DataFrame,
    texts: Mapping[str, str | None],
    start: str | None,
    turns: Sequence[int],
    lr: float | None = None,
    book: PromptBook | None = None,
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
        book: the prompts that V reads; None is the run's own.
    """
    from trackrec.recipe.training import fit
    from trackrec.validator.data import RecTuneData
    from trackrec.validator.module import RecTuningModule

    section, lm = exp.rec_tune, language_model(exp, "validator")
    adapter = new_adapter(exp, lm, f"{name}-rec_tune", start)
    options = {**section.data, "samples_per_history": tuning_limit(exp) * len(turns)}
    seed = exp.seed + max(turns)
    held = held_rows_of(exp, rows["history_id"].unique())
    read = prompt_book(exp) if book is None else book
    needed = section.data.get("contrast") or section.data.get("wrong_texts")
    others = _wrong_texts(exp, rows, texts, seed) if needed else None
    targets = targets_by_history(rows), targets_by_history(held)
    data = RecTuneData(lm, read, texts, *targets, seed=seed, others=others, **options)
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
