"""Scores with the model of this process: all RecCoTs and targets of a history in one packed row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from trackrec.llm.backbone import LanguageModel
from trackrec.llm.logprobs import next_token_logprobs
from trackrec.llm.memory import FittingBatches, halve_list
from trackrec.llm.packing import tree_tokens
from trackrec.validator.score import Entry

if TYPE_CHECKING:
    from trackrec.validator.settings import ScoreSettings


class PackedReader:
    """Scores trees as packed rows, with the model of this process."""

    def __init__(self, settings: ScoreSettings) -> None:
        self._batch_tokens = settings.batch_tokens
        self._memory: FittingBatches[Sequence[Entry]] = FittingBatches(
            "scoring",
            "Lower scoring.batch_tokens to begin there.",
            "Lower prompts.validator.max_history, sampler.init_args.max_new_tokens or loop.targets.",
            lambda batch: len(batch) * max(tree_tokens(entry.tree) for _, entry in batch),
            halve_list,
        )

    def read(
        self, lm: LanguageModel, adapter: str | None, entries: Sequence[Entry]
    ) -> Iterator[tuple[Sequence[Entry], Tensor]]:
        """See `AnswerReader.read`."""
        with lm.using(adapter):
            for batch in _batches(entries, self._batch_tokens):
                yield from self._memory.run(batch, partial(_read_packed, lm))

    def release(self) -> None:
        """Do nothing: this reader holds no resources."""


def _batches(shard: Sequence[Entry], batch_tokens: int) -> Iterator[list[Entry]]:
    """Trees of similar size together, up to ``batch_tokens`` with padding; a larger tree is a batch by itself."""
    largest_first = sorted(shard, key=lambda entry: -tree_tokens(entry[1].tree))
    batch: list[Entry] = []
    for entry in largest_first:
        width = tree_tokens(batch[0][1].tree) if batch else 0
        if batch and (len(batch) + 1) * width > batch_tokens:
            yield batch
            batch = []
        batch.append(entry)
    if batch:
        yield batch


def _read_packed(lm: LanguageModel, batch: Sequence[Entry]) -> tuple[Sequence[Entry], Tensor]:
    """A batch, and the (M, L) log-probabilities of the answers at its M questions."""
    labels = lm.chat.label_tokens()
    layout = lm.layout([entry.tree for _, entry in batch])
    spots = [layout.spots[index][branch] for index, (_, entry) in enumerate(batch) for branch in entry.branches]
    return batch, next_token_logprobs(lm, layout, spots, [*labels.yes, *labels.no])
