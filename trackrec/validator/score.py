"""V's opinion: P(true label | history, RecCoT, target), read in one forward pass without decoding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from trackrec.llm.backbone import LanguageModel
from trackrec.llm.chat import LabelTokens
from trackrec.llm.logprobs import next_token_logprobs
from trackrec.llm.memory import FittingBatches, halve_list
from trackrec.llm.packing import path_ids, tree_tokens
from trackrec.llm.vllm.host import VLLMHost
from trackrec.llm.vllm.process import VLLMSettings, check_vllm
from trackrec.prompts.book import PromptBook
from trackrec.storage.parts import standing_part, write_part
from trackrec.validator.judge import JudgeTree, judge_tree, label_logps

if TYPE_CHECKING:
    from trackrec.llm.loading import BackboneSettings

Entry = tuple[str, JudgeTree]


@dataclass(frozen=True)
class ScoreSettings:
    """How V is asked.

    Attributes:
        batch_tokens: most tokens of one forward pass, padding included.
        engine: ``hf`` reads each history once for all its questions, in this process; ``vllm`` runs beside it and
            shares the prompts' beginnings in its prefix cache.
        vllm: how much vLLM may take, where it is the engine.
    """

    batch_tokens: int = 8192
    engine: Literal["hf", "vllm"] = "hf"
    vllm: VLLMSettings = field(default_factory=VLLMSettings)

    def __post_init__(self) -> None:
        if self.batch_tokens < 1:
            raise ValueError(f"scoring.batch_tokens must be at least 1, got {self.batch_tokens}.")
        self.vllm.check("scoring.vllm")

    def check(self, backbone: BackboneSettings) -> None:
        """Asked before anything runs: whether the engine can ask V on this machine.

        Raises:
            MissingPackageError: vLLM is asked for and missing.
            ValueError: vLLM does not load this form of weights.
        """
        if self.engine == "vllm":
            check_vllm(backbone, "scoring.engine vllm", "scoring.engine hf")


class ScoreJob(NamedTuple):
    """What V is asked about one history: (draw, text) pairs and (sample_id, item_id, label) targets."""

    history_id: str
    reccots: Sequence[tuple[int, str | None]]
    targets: Sequence[tuple[str, str, int]]


def yes_probability(logps: Tensor, labels: LabelTokens) -> tuple[Tensor, Tensor]:
    """P(Yes) and how much probability the two answers hold together.

    Args:
        logps: (M, L) log-probabilities of ``labels.yes + labels.no`` at the answer position.
        labels: which of the L tokens are which.

    Returns:
        p_yes (M,): all surface forms of Yes against all of No, softmaxed on log-probabilities.
        answer_mass (M,): their total probability. It is rounded in the model's dtype, so 1 is made its most.
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
    settings: ScoreSettings,
    shard_size: int,
    first_part: int = 0,
) -> dict[str, Any]:
    """Write (or go on writing) the scores table of a stage.

    Args:
        lm: the model.
        adapter: V's adapter; None is the plain base.
        entries: what to ask, one tree per history id (see `encode_jobs`).
        out_dir: the stage directory.
        source: of the RecCoTs.
        round_: of the RecCoTs.
        validator: the name under which the opinions are filed.
        settings: batch size.
        shard_size: histories per part.
        first_part: number of the first part, where several validators share a table.

    Returns:
        Counts for the manifest.
    """
    ordered = sorted(entries, key=lambda entry: entry[0])
    asked = tokens = 0
    bar = tqdm(total=len(ordered), desc=f"scores {source} by {validator}", unit="history", disable=None)
    common = {"source": source, "round": round_, "validator": validator}
    reader = _VLLMReader(settings) if settings.engine == "vllm" else _PackedReader(settings.batch_tokens)
    try:
        for part, start in enumerate(range(0, len(ordered), shard_size), first_part):
            shard = ordered[start : start + shard_size]
            if (kept := standing_part(out_dir, "scores", part)) is not None:
                asked += len(kept)
                bar.update(len(shard))
                continue
            rows: list[dict[str, Any]] = []
            for batch, logps in reader.read(lm, adapter, [entry for entry in shard if entry[1].questions]):
                rows.extend(_opinions(lm.chat.label_tokens(), batch, logps))
                tokens += sum(tree_tokens(tree.tree) for _, tree in batch)
                bar.update(len(batch))
            write_part(out_dir, "scores", [{**row, **common} for row in rows], part)
            asked += len(rows)
    finally:
        bar.close()
        reader.release()
    return {"histories": len(entries), "questions": asked, "tokens": tokens}


class _PackedReader:
    """Reads trees as packed rows, with the model of this process."""

    def __init__(self, batch_tokens: int) -> None:
        self._batch_tokens, self._memory = batch_tokens, _memory()

    def read(
        self, lm: LanguageModel, adapter: str | None, entries: Sequence[Entry]
    ) -> Iterator[tuple[Sequence[Entry], Tensor]]:
        """Batches, and the (M, L) log-probabilities of the answers to their questions."""
        with lm.using(adapter):
            for batch in _batches(entries, self._batch_tokens):
                yield from self._memory.run(batch, partial(_read_packed, lm))

    def release(self) -> None:
        """Nothing is held."""


class _VLLMReader:
    """Reads each question as a prompt of its own, with vLLM."""

    def __init__(self, settings: ScoreSettings) -> None:
        # In bfloat16 the output layer would tie the answers of half the rows.
        overrides = {"hf_overrides": {"head_dtype": "float32"}}
        self._host = VLLMHost(settings.vllm, settings.batch_tokens, "scoring.vllm", overrides)

    def read(
        self, lm: LanguageModel, adapter: str | None, entries: Sequence[Entry]
    ) -> Iterator[tuple[Sequence[Entry], Tensor]]:
        """See `_PackedReader.read`; all entries are one batch, vLLM makes its own."""
        labels = lm.chat.label_tokens()
        prompts = [path_ids(entry.tree, branch) for _, entry in entries for branch in entry.branches]
        if prompts:
            found = self._host.score(lm, adapter, prompts, [*labels.yes, *labels.no], lambda _count: None)
            yield entries, torch.tensor(found)

    def release(self) -> None:
        """End vLLM's process."""
        self._host.release()


def _batches(shard: Sequence[Entry], batch_tokens: int) -> Iterator[list[Entry]]:
    """Trees of like size together, up to ``batch_tokens`` with padding; a tree larger than that goes alone."""
    trees = sorted(shard, key=lambda entry: -tree_tokens(entry[1].tree))
    batch: list[Entry] = []
    for entry in trees:
        width = tree_tokens(batch[0][1].tree) if batch else 0
        if batch and (len(batch) + 1) * width > batch_tokens:
            yield batch
            batch = []
        batch.append(entry)
    if batch:
        yield batch


def _memory() -> FittingBatches[Sequence[Entry]]:
    return FittingBatches(
        "scoring",
        "Lower scoring.batch_tokens to begin there.",
        "Lower prompts.max_history, sampler.init_args.max_new_tokens or loop.targets.",
        lambda batch: len(batch) * max(tree_tokens(entry.tree) for _, entry in batch),
        halve_list,
    )


def _read_packed(lm: LanguageModel, batch: Sequence[Entry]) -> tuple[Sequence[Entry], Tensor]:
    """A batch, and the (M, L) log-probabilities of the answers to its questions."""
    labels = lm.chat.label_tokens()
    layout = lm.layout([entry.tree for _, entry in batch])
    spots = [layout.spots[index][branch] for index, (_, entry) in enumerate(batch) for branch in entry.branches]
    return batch, next_token_logprobs(lm, layout, spots, [*labels.yes, *labels.no])


def _opinions(labels: LabelTokens, batch: Sequence[Entry], logps: Tensor) -> list[dict[str, Any]]:
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
        ValueError: a prompt is longer than the model reaches.
    """
    entries = [(job.history_id, judge_tree(lm.chat, book, *job)) for job in jobs]
    lm.check_reach(entry.tree for _, entry in entries if entry.questions)
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
