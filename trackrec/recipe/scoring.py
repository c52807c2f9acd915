"""How stages let V score texts: targets, prompts, the budget, the scores table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from trackrec.llm.packing import tree_tokens
from trackrec.metrics.intervals import Interval
from trackrec.recipe.book import prompt_book
from trackrec.recipe.cohort import targets_by_history
from trackrec.recipe.models import announce, language_model, load_adapter
from trackrec.storage.parts import read_table
from trackrec.validator.evaluate import scored_rows_of, validator_metrics
from trackrec.validator.prompt_tree import question_tokens
from trackrec.validator.score import Entry, encode_jobs, score_jobs, score_reccots

if TYPE_CHECKING:
    from trackrec.prompts.book import PromptBook
    from trackrec.recipe.experiment import Experiment

BASE = "base"
"""The name under which the base model's scores are filed."""
PARTS_PER_VALIDATOR = 10_000
"""Parts of one scores table that belong to different validators begin at multiples of it."""


def score_texts(
    exp: Experiment,
    out: Path,
    rows: pl.DataFrame,
    texts: Mapping[str, Sequence[tuple[int, str | None]]],
    validator: str | None,
    source: str,
    round_: int,
    first_part: int = 0,
    per_tree: int | None = None,
    book: PromptBook | None = None,
) -> dict[str, Any]:
    """V's scores of the rows under each text: the scores table in ``out``, and notes for a manifest.

    Args:
        exp: the run.
        out: the stage directory.
        rows: of the samples table, V's targets.
        texts: history -> (draw, text) pairs; a text of None is a prompt without one.
        validator: the stage that tuned V; None is the base model.
        source: of the texts.
        round_: of the texts.
        first_part: number of the first part, where several validators share a table.
        per_tree: at most so many targets share a packed row; None: all of a history.
        book: the prompts that V reads; None is the run's own.
    """
    entries = encode_questions(exp, rows, texts, per_tree, book)
    return score_entries(exp, out, entries, validator, source, round_, first_part)


def encode_questions(
    exp: Experiment,
    rows: pl.DataFrame,
    texts: Mapping[str, Sequence[tuple[int, str | None]]],
    per_tree: int | None = None,
    book: PromptBook | None = None,
) -> list[Entry]:
    """The rows under each text as prompts of V; see `score_texts`."""
    jobs = score_jobs(targets_by_history(rows), texts)
    if per_tree:
        jobs = [
            job._replace(targets=job.targets[start : start + per_tree])
            for job in jobs
            for start in range(0, len(job.targets), per_tree)
        ]
    return encode_jobs(language_model(exp, "validator"), prompt_book(exp) if book is None else book, jobs)


def score_entries(
    exp: Experiment,
    out: Path,
    entries: Sequence[Entry],
    validator: str | None,
    source: str,
    round_: int,
    first_part: int,
) -> dict[str, Any]:
    """V's scores of encoded prompts; see `score_texts`."""
    lm = language_model(exp, "validator")
    adapter = load_adapter(exp, lm, validator)
    trees = [entry.tree for _, entry in entries]
    lm.check_packing(max(trees, key=len), adapter)
    notes = announce(exp, "score", len(entries), sum(map(tree_tokens, trees)))
    made = score_reccots(
        lm,
        adapter,
        entries,
        out,
        source=source,
        round_=round_,
        validator=validator or BASE,
        reader=exp.scoring.reader(),
        shard_size=exp.loop.shard_histories,
        first_part=first_part,
    )
    return {**made, **notes}


def measure_texts(
    exp: Experiment,
    out: Path,
    rows: pl.DataFrame,
    texts: Mapping[str, str | None],
    validator: str | None,
    source: str,
    round_: int,
    first_part: int,
    book: PromptBook | None = None,
) -> tuple[dict[str, Any], dict[str, Interval]]:
    """Score rows with one text per history, and measure V on them; see `score_texts`.

    ``prompt_tokens`` are the tokens that V reads for one question, from the prompt's first token to the last one before
    the answer, whether or not questions share them in memory: their mean, without an interval.
    """
    wanted = set(rows["history_id"].to_list())
    given = single_texts({key: text for key, text in texts.items() if key in wanted})
    entries = encode_questions(exp, rows, given, book=book)
    notes = score_entries(exp, out, entries, validator, source, round_, first_part)
    scored = scored_rows_of(read_table(out, "scores"), rows, validator or BASE, source)
    tokens = [count for _, entry in entries for count in question_tokens(entry)]
    read = Interval(sum(tokens) / max(1, len(tokens)), float("nan"), float("nan"), len(tokens))
    return notes, {**validator_metrics(scored, exp.seed), "prompt_tokens": read}


def single_texts(texts: Mapping[str, str | None]) -> dict[str, list[tuple[int, str | None]]]:
    """One text per history in the form that scoring takes: draw 0."""
    return {history_id: [(0, text)] for history_id, text in texts.items()}


def add_counts(notes: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Notes of several validators on the same histories: their questions and tokens add up."""
    return {**more, **{key: notes.get(key, 0) + more[key] for key in ("questions", "tokens")}}
