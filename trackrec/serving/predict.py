"""Probabilities for (user, item) requests from the nets of a finished run."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trackrec.ctr.arms.arm import Arm
from trackrec.interactions import DataError
from trackrec.recipe.arm_scores import score_arm
from trackrec.recipe.cohort import learned_samples
from trackrec.recipe.ctr_inputs import check_nets, ctr_inputs
from trackrec.recipe.experiment import Experiment
from trackrec.recipe.graph import Graph
from trackrec.recipe.names import CTR, TEXTS
from trackrec.recipe.tables import sample_rows as all_samples
from trackrec.recipe.tables import texts_of
from trackrec.serving.request_files import (
    check_column,
    check_form,
    check_no_column,
    check_output,
    read_requests,
    write_answers,
)
from trackrec.serving.requests import (
    after_all,
    check_items,
    check_users,
    newest_histories,
    request_rows,
    with_cold_users,
)
from trackrec.storage.parts import read_table

if TYPE_CHECKING:
    from trackrec.ctr.arms.assemble import CTRInputs
    from trackrec.ctr.saved import SavedNets

ROWS_AT_ONCE = 65_536
ANSWERED_BY = "answered_by"


def predict(
    exp: Experiment, graph: Graph, requests: Path, output: Path, arm: str, unknown: str, column: str = "p"
) -> None:
    """Write ``output``: the requests in their order, with all their columns and one more, the mean over an arm's seeds.

    A request is answered as if it came after everything the run has read: the user's recent list is their newest
    ratings, item statistics count all train rows.

    Args:
        exp: a run whose ctr stage is done.
        graph: its stages, which name the validator (V) that scores the requests where the arm reads V's log-odds.
        requests: a file with ``user_id`` and ``item_id``, of any kind that `Table` reads.
        output: file to write: .parquet, .csv, .tsv or .jsonl.
        arm: one of those the ctr stage trained.
        unknown: ``answer``: users and items that the arm can't answer are answered by the nets without text or by
            like-rates, and the column `ANSWERED_BY` says by what (`trackrec.serving.ranker`); ``error``; ``empty``: no
            probability for users without a RecCoT and for items that aren't known; ``cold``: users without a history
            are answered as the run's cold users (``samples.min_history: 0``).
        column: name of the column for the probabilities; the requests must not have it.

    Raises:
        DataError: a column is missing or there already, no request can be answered, some can't while ``unknown`` is
            ``error``, ``cold`` doesn't fit the run, or ``output`` can't be written in that form.
        StageError: a stage that it reads isn't done, or is damaged.
    """
    from trackrec.ctr.arms.assemble import sample_rows
    from trackrec.ctr.saved import SavedNets, saved_seeds
    from trackrec.serving.everyone import Ladder

    check_output(output)
    if unknown == "cold" and exp.prompts.user_attributes and arm != "none":
        raise DataError(
            "--unknown cold: prompts.user_attributes is true, and the prompts of this run know no attributes of new "
            "users. Use --arm none or --unknown empty."
        )
    check_nets(exp)
    saved_seeds(exp.directory(CTR), arm)
    asked = read_requests(requests)
    check_column(column, asked, requests)
    check_form(output, asked)
    wanted = asked.ids
    inputs = ctr_inputs(exp)
    reads_log_odds = exp.ctr.text.use == "log_odds" and bool(Arm.parse(arm).texts)
    log_odds = partial(request_log_odds, exp, graph, arm=arm) if reads_log_odds else None
    if unknown == "answer":
        check_no_column(ANSWERED_BY, asked, requests)
        ladder = Ladder(inputs, exp.ctr, exp.directory(CTR), arm, exp.seed, not exp.prompts.user_attributes)
        everyone = ladder.answer(wanted, partial(answer, log_odds=log_odds), answer)
        columns = {column: pl.Series(everyone.p), ANSWERED_BY: pl.Series(everyone.answered_by, dtype=pl.String)}
        write_answers(output, asked, columns)
        counts = Counter(everyone.answered_by)
        by = ", ".join(f"{count:,} by {name}" for name, count in counts.most_common())
        exp.say(f"{len(wanted):,} predictions in {output}: {by}")
        return
    answerable_histories = set(sample_rows(inputs, exp.ctr.text)["history_id"].to_list())
    histories = newest_histories(inputs.samples, answerable_histories)
    if unknown == "cold":
        histories = with_cold_users(histories, wanted["user_id"], inputs.histories, answerable_histories)
    known = wanted["user_id"].is_in(histories["user_id"].implode())
    known &= wanted["item_id"].is_in(inputs.items["item_id"].implode())
    if unknown != "empty" or not known.any():
        check_items(wanted["item_id"], set(inputs.items["item_id"]))
        check_users(set(wanted["user_id"]) - set(histories["user_id"]))
    nets = SavedNets(inputs, exp.ctr, exp.directory(CTR), arm, exp.seed, now=after_all(inputs.interactions))
    answerable = wanted.filter(known)
    p = answer(nets, answerable, histories, inputs, log_odds)
    empty = pl.repeat(None, len(wanted), dtype=pl.Float32, eager=True)
    write_answers(output, asked, {column: empty.scatter(known.arg_true(), pl.Series(p))})
    unanswered = len(wanted) - len(answerable)
    note = f"; {unanswered:,} requests of unknown users or items have none" if unanswered else ""
    exp.say(f"{len(answerable):,} predictions of arm {arm} in {output}{note}")


def request_log_odds(exp: Experiment, graph: Graph, rows: pl.DataFrame, arm: str) -> dict[str, dict[str, float]]:
    """Log-odds of the validator (V) for requests, as an arm's nets read them: arm -> sample -> log-odds (`CTRInputs`).

    V scores as in the stage ``log_odds``, once for each user and item. There is no value where the history has no text,
    and where V was tuned on the user's rating of the item, or the generator's texts were rewarded for it.

    Args:
        exp: the run.
        graph: its stages.
        rows: `trackrec.serving.requests.request_rows`.
        arm: any but ``none``.
    """
    from trackrec.ctr.arms.log_odds import log_odds_of

    scored = Arm.parse(arm).scored_as
    with_text = rows.filter(pl.col("history_id").is_in(list(texts_of(exp, TEXTS))))
    learned = all_samples(exp).filter(pl.col("sample_id").is_in(list(learned_samples(exp))))
    unlearned = with_text.join(learned, on=["user_id", "item_id"], how="anti", maintain_order="left")
    if arm == "random" or not len(unlearned):  # the arm "random" replaces V's log-odds by noise
        return {scored: dict.fromkeys(unlearned["sample_id"].to_list(), 0.0)}
    pair = ["history_id", "item_id"]
    distinct = unlearned.unique(pair, keep="first", maintain_order=True)
    with tempfile.TemporaryDirectory() as folder:
        score_arm(exp, Path(folder), distinct, scored, graph.validator_of(scored))
        log_odds = log_odds_of(read_table(Path(folder), "scores"), set())
    scored_ids = distinct.select(*pair, scored_id="sample_id")
    ids = unlearned.join(scored_ids, on=pair, how="left", maintain_order="left").select("sample_id", "scored_id")
    return {scored: {sample: log_odds[scored_id] for sample, scored_id in ids.iter_rows()}}


def answer(
    nets: SavedNets,
    requests: pl.DataFrame,
    histories: pl.DataFrame,
    inputs: CTRInputs,
    log_odds: Callable[[pl.DataFrame], dict[str, dict[str, float]]] | None = None,
    rows_at_once: int | None = None,
) -> NDArray[np.float32]:
    """P(like) of each request, in order: (N,).

    Args:
        nets: the nets that predict.
        requests: user_id, item_id; all of them known.
        histories: `trackrec.serving.requests.newest_histories`.
        inputs: the tables.
        log_odds: computes V's log-odds for rows of the samples table, where the nets read them. It then gets all
            requests in one call, so that V reads each history once.
        rows_at_once: how many requests have their features in memory at a time; None: `ROWS_AT_ONCE`.
    """
    width = int(inputs.samples["recent_items"].list.len().max() or 1)  # type: ignore[arg-type]
    published = inputs.samples if inputs.published_lists else None
    step = len(requests) if log_odds else rows_at_once or ROWS_AT_ONCE
    p = np.empty(len(requests), np.float32)
    for start in range(0, len(requests), step):
        rows = request_rows(requests[start : start + step], histories, inputs.interactions, width, published)
        p[start : start + step] = nets(rows, log_odds(rows) if log_odds else None)
    return p
