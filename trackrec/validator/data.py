"""Rec-Tuning rows: history, greedy RecCoT and target, several targets per history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lightning.pytorch import LightningDataModule

from trackrec.llm.backbone import LanguageModel
from trackrec.llm.packing import Layout, Spot, tree_tokens
from trackrec.llm.training.batches import BatchLoader, validation_loaders
from trackrec.llm.training.distributed import process_rank
from trackrec.prompts.book import PromptBook
from trackrec.runtime.errors import SettingError
from trackrec.validator.prompt_tree import ValidatorTree, validator_tree

Targets = Mapping[str, Sequence[tuple[str, str, int]]]  # history_id -> (sample_id, item_id, label) triples


class ValidatorBatch(NamedTuple):
    """Packed rows, the M branch ends where the validator answers, their sample ids and labels, and the examples."""

    layout: Layout
    spots: list[Spot]
    ids: list[str]
    labels: list[int]
    examples: list[ValidatorTree]


class RecTuneData(LightningDataModule):
    """One example per history: its RecCoT and all its tuning targets.

    Args:
        lm: encodes and lays out.
        book: histories, items and words.
        texts: the RecCoT of each history; None trains without one.
        targets: per history, (sample_id, item_id, label) triples.
        held: the same, for validation.
        seed: of the order.
        batch_size: histories per batch.
        samples_per_history: most tuning rows per history in one round.
    """

    def __init__(
        self,
        lm: LanguageModel,
        book: PromptBook,
        texts: Mapping[str, str | None],
        targets: Targets,
        held: Targets | None = None,
        seed: int = 0,
        batch_size: int = 4,
        samples_per_history: int = 4,
    ) -> None:
        super().__init__()
        if samples_per_history < 1:
            raise SettingError(f"rec_tune.data.samples_per_history must be at least 1, got {samples_per_history}.")
        self.lm, self.book, self.texts, self.targets, self.held = lm, book, texts, targets, held or {}
        self.seed, self.batch_size, self.samples_per_history = seed, batch_size, samples_per_history

    def setup(self, stage: str) -> None:
        """Encode every history.

        Raises:
            ValueError: a history has more targets than ``samples_per_history``.
            SettingError: a prompt is longer than the model's context.
        """
        most = max(map(len, self.targets.values()))
        if most > self.samples_per_history:
            raise ValueError(f"a history has {most} tuning rows, samples_per_history is {self.samples_per_history}")
        self.examples, self.held_examples = self._encode(self.targets), self._encode(self.held)
        self.lm.check_reach(entry.tree for entry in (*self.examples, *self.held_examples))

    def _encode(self, targets: Targets) -> list[ValidatorTree]:
        return [
            validator_tree(self.lm.chat, self.book, history_id, [(0, self.texts[history_id])], rows)
            for history_id, rows in sorted(targets.items())
        ]

    def collate(self, trees: list[ValidatorTree]) -> ValidatorBatch:
        """Rows and answer positions of some histories."""
        layout = self.lm.layout([entry.tree for entry in trees])
        spots = [layout.spots[index][branch] for index, entry in enumerate(trees) for branch in entry.branches]
        questions = [question for entry in trees for question in entry.questions]
        samples = [question.sample_id for question in questions]
        labels = [question.label for question in questions]
        return ValidatorBatch(layout, spots, samples, labels, trees)

    def train_dataloader(self) -> BatchLoader[ValidatorTree]:
        """Shuffled batches, or this rank's shares of them."""
        lengths = [tree_tokens(entry.tree) for entry in self.examples]
        rank, size = process_rank()
        return BatchLoader(self.examples, lengths, self.batch_size, self.collate, self.seed, rank=rank, processes=size)

    def val_dataloader(self) -> list[BatchLoader[ValidatorTree]]:
        """Batches of the held rows in their order, or this process's shares of them; none without held rows."""
        held = self.held_examples
        return validation_loaders(held, [tree_tokens(entry.tree) for entry in held], self.batch_size, self.collate)

    def transfer_batch_to_device(self, batch: ValidatorBatch, device: Any, dataloader_idx: int) -> ValidatorBatch:
        """The batch as it is: the model moves its inputs to its device."""
        return batch
