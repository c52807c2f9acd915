"""The validator's (V's) scores: P(true label | history, RecCoT, target), read in one forward pass without decoding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor
from tqdm import tqdm

from trackrec.llm.backbone import LanguageModel
from trackrec.llm.chat import LabelTokens
from trackrec.llm.packing import tree_tokens
from trackrec.prompts.book import PromptBook
from trackrec.storage.parts import standing_part, write_part
from trackrec.validator.prompt_tree import ValidatorTree, label_logps, validator_tree

Entry = tuple[str, ValidatorTree]


class AnswerReader(Protocol):
    """An engine that computes V's scores: `trackrec.validator.packed_reader` or `trackrec.validator.vllm_reader`."""

    def read(
        self, lm: LanguageModel, adapter: str | None, entries: Sequence[Entry]
    ) -> Iterator[tuple[Sequence[Entry], Tensor]]:
        """Batches of the entries, and the (M, L) log-probabilities of the answers at each batch's M questions."""
        ...

    def release(self) -> None:
        """Free the engine's memory and processes."""
        ...


class ScoreJob(NamedTuple):
    """What V scores of one history: every (draw, text) pair with every (sample_id, item_id, label) target."""

    history_id: str
    reccots: Sequence[tuple[int, str | None]]
    targets: Sequence[tuple[str, str, int]]


def yes_probability(logps: Tensor, labels: LabelTokens) -> tuple[Tensor, Tensor]:
    """P(Yes), and the total probability of both answers.

    Args:
        logps: (M, L) log-probabilities of ``labels.yes + labels.no`` at the answer position.
        labels: which of the L tokens are which.

    Returns:
        p_yes (M,): all surface forms of Yes against all of No, softmaxed on log-probabilities.
        answer_mass (M,): their total probability, clamped to 1: rounding in the model's dtype can push it above.
    """
    return label_logps(logps, labels)[:, 1].exp(), logps.logsumexp(-1).exp().clamp(max=1.0)


def score_reccots(
    lm: LanguageModel,
    adapter: str | None,
    entries: Sequence[Entry],
    out_dir: Path,
    *,
    source: str,
    round_: int,
    validator: str,
    reader: AnswerReader,
    shard_size: int,
    first_part: int = 0,
) -> dict[str, Any]:
    """Write the scores table of a stage; parts that an interrupted run finished are kept.

    Args:
        lm: the model.
        adapter: V's adapter; None is the plain base.
        entries: what to score, one tree per history id (see `encode_jobs`).
        out_dir: the stage directory.
        source: of the RecCoTs.
        round_: of the RecCoTs.
        validator: value of the table's column ``validator``.
        reader: the engine; released at the end.
        shard_size: histories per part.
        first_part: number of the first part, where several validators share a table.

    Returns:
        Counts for the manifest.
    """
    ordered = sorted(entries, key=lambda entry: entry[0])
    questions = tokens = 0
    bar = tqdm(total=len(ordered), desc=f"scores {source} by {validator}", unit="history", disable=None)
    common = {"source": source, "round": round_, "validator": validator}
    try:
        for part, start in enumerate(range(0, len(ordered), shard_size), first_part):
            shard = ordered[start : start + shard_size]
            if (kept := standing_part(out_dir, "scores", part)) is not None:
                questions += len(kept)
                bar.update(len(shard))
                continue
            rows: list[dict[str, Any]] = []
            for batch, logps in reader.read(lm, adapter, [entry for entry in shard if entry[1].questions]):
                rows.extend(_score_rows(lm.chat.label_tokens(), batch, logps))
                tokens += sum(tree_tokens(tree.tree) for _, tree in batch)
                bar.update(len(batch))
            write_part(out_dir, "scores", [{**row, **common} for row in rows], part)
            questions += len(rows)
    finally:
        bar.close()
        reader.release()
    return {"histories": len(entries), "questions": questions, "tokens": tokens}


def _score_rows(labels: LabelTokens, batch: Sequence[Entry], logps: Tensor) -> list[dict[str, Any]]:
    """Rows of the scores table."""
    p_yes, mass = (values.tolist() for values in yes_probability(logps, labels))
    keys = [(history_id, question) for history_id, entry in batch for question in entry.questions]
    return [
        {
            "history_id": history_id,
            "draw": question.draw,
            "sample_id": question.sample_id,
            "p_yes": p,
            "answer_mass": m,
            "p_true": p if question.label else 1 - p,
        }
        for (history_id, question), p, m in zip(keys, p_yes, mass, strict=True)
    ]


def encode_jobs(lm: LanguageModel, book: PromptBook, jobs: Sequence[ScoreJob]) -> list[Entry]:
    """The tree of each job's history.

    Raises:
        SettingError: a prompt is longer than the model's context.
    """
    entries = [(job.history_id, validator_tree(lm.chat, book, *job)) for job in jobs]
    lm.check_reach((entry.tree for _, entry in entries if entry.questions), "validator")
    return entries


def score_jobs(
    targets: Mapping[str, Sequence[tuple[str, str, int]]], texts: Mapping[str, Sequence[tuple[int, str | None]]]
) -> list[ScoreJob]:
    """One job per history that has targets.

    Raises:
        ValueError: a history has targets and no text.
    """
    missing = sorted(set(targets) - set(texts))
    if missing:
        raise ValueError(f"{len(missing)} histories have targets to score and no RecCoT, the first is {missing[0]}")
    return [ScoreJob(history_id, texts[history_id], rows) for history_id, rows in sorted(targets.items())]
