"""Preference sets as trees: one prompt, one chosen and K rejected texts, each with the token ids as sampled."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from trackrec.llm.backbone import LanguageModel
from trackrec.llm.packing import Branch, Layout, Tree, tree_tokens
from trackrec.llm.training.batches import BatchLoader, validation_loaders
from trackrec.llm.training.distributed import process_rank
from trackrec.prompts.book import PromptBook
from trackrec.runtime.errors import SettingError
from trackrec.storage.atomic import stable_share
from trackrec.storage.parts import read_dataset


class PreferenceExample(NamedTuple):
    """One set: branch 0 is the prompt, 1 the chosen text, the others the rejected ones; rewards in the same order."""

    history_id: str
    tree: Tree
    round: int = -1
    rewards: tuple[float, ...] = ()
    weight: float = 1.0


class PreferenceBatch(NamedTuple):
    """B sets and, once computed, their reference log-probabilities: (B,) and (B, K), K rejected in the largest set.

    ``rewards`` are V's, (B, 1 + K): the chosen text's, then the rejected ones', 0 where a set has fewer. ``weights``
    (B,) are those of the sets in the training.
    """

    ids: list[str]
    layout: Layout
    wanted: list[tuple[int, int]]
    tokens: list[list[int]]
    sizes: list[int]
    ref_chosen: Tensor | None
    ref_rejected: Tensor | None
    examples: list[PreferenceExample]
    rewards: Tensor
    weights: Tensor


def check_hold(hold: float) -> None:
    """Check ``align.data.hold`` before a model is loaded.

    Raises:
        SettingError: it is no share of the sets.
    """
    if not 0 <= hold < 1:
        raise SettingError(f"align.data.hold must be in [0, 1), a share of the sets, such as 0.1, got {hold}.")


class AlignData(LightningDataModule):
    """The preference sets of one round, or of several rounds whose texts the same generator (G) wrote.

    Args:
        lm: encodes and lays out.
        book: histories and words.
        directories: of each round, the stage directories of the preferences table and of the draws' reccots table.
        weight: ``align.sets.weight``, see `PreferenceSettings`.
        seed: of the order.
        batch_size: sets per batch. The effective batch is this times ``trainer.accumulate_grad_batches``.
        hold: share of the histories, chosen by hash and so the same in every round, whose sets are not trained on: the
            training is validated on them, before its first step and then as ``trainer.val_check_interval`` says, by
            default four times per epoch (``valid/loss``, ``valid/margin``, ``valid/accuracy``,
            ``valid/chosen_reward``). At least one history is held where there are two. 0 holds nothing back.

    Attributes:
        examples: the sets that are trained on.
        held: those that are not.

    Raises:
        SettingError: ``hold`` is out of range.
    """

    def __init__(
        self,
        lm: LanguageModel,
        book: PromptBook,
        directories: Sequence[tuple[Path, Path]],
        weight: Literal["none", "spread"] = "none",
        seed: int = 0,
        batch_size: int = 4,
        hold: float = 0.0,
    ) -> None:
        super().__init__()
        check_hold(hold)
        self.lm, self.book, self.directories, self.weight = lm, book, directories, weight
        self.seed, self.batch_size, self.hold = seed, batch_size, hold
        self.references: dict[tuple[str, int], tuple[float, list[float]]] = {}
        self.examples: list[PreferenceExample] = []
        self.held: list[PreferenceExample] = []

    def setup(self, stage: str) -> None:
        """Read and encode the sets, once.

        Raises:
            SettingError: there is no preference set, or ``hold`` leaves none to train on.
        """
        if self.examples:
            return
        examples: list[PreferenceExample] = []
        for preferences, samples in self.directories:
            tokens = {(row["history_id"], row["draw"]): row["token_ids"] for row in read_dataset(samples, "reccots")}
            made = [self._example(row, tokens) for row in read_dataset(preferences, "preferences")]
            if self.weight == "spread":
                spreads = [entry.rewards[0] - min(entry.rewards[1:]) for entry in made]
                mean = sum(spreads) / max(len(spreads), 1) or 1.0
                made = [entry._replace(weight=one / mean) for entry, one in zip(made, spreads, strict=True)]
            examples += made
        if not examples:
            raise SettingError(
                "no preference set is left to align on: see the counts of the preferences stage. V may not tell the "
                "draws apart (lower align.sets.min_spread or min_best), or every draw was cut (raise sampler "
                "max_new_tokens)."
            )
        held = self._held_histories({entry.history_id for entry in examples})
        self.examples = [entry for entry in examples if entry.history_id not in held]
        self.held = [entry for entry in examples if entry.history_id in held]
        if not self.examples:
            raise SettingError(f"no preference set is left to align on: lower align.data.hold, now {self.hold}.")
        self.lm.check_reach((entry.tree for entry in examples), "generator")

    def _held_histories(self, histories: set[str]) -> set[str]:
        """Those whose number by hash is below ``hold``; the one with the lowest number where none is."""
        if not self.hold or len(histories) < 2:
            return set()
        shares = {key: stable_share("hold sets", self.seed, key) for key in histories}
        return {key for key, share in shares.items() if share < self.hold} or {min(histories, key=shares.__getitem__)}

    def _example(self, row: dict[str, Any], tokens: dict[tuple[str, int], list[int]]) -> PreferenceExample:
        history_id = row["history_id"]
        prompt = self.lm.chat.encode_prompt(self.book.reccot_prompt(history_id))
        draws = [row["chosen"], *row["rejected"]]
        tree = [Branch(prompt), *(Branch(tokens[history_id, draw], 0) for draw in draws)]
        return PreferenceExample(history_id, tree, row["round"], (row["chosen_reward"], *row["rejected_rewards"]))

    def set_references(self, rows: Sequence[dict[str, Any]]) -> None:
        """Store the rows of the reference_logps table."""
        self.references = {
            (row["history_id"], row["round"]): (row["chosen_logp"], row["rejected_logps"]) for row in rows
        }

    def collate(self, examples: list[PreferenceExample]) -> PreferenceBatch:
        """Packed rows, the (set, branch) of every text, and padded (B, K) references."""
        wanted = [(index, branch) for index, entry in enumerate(examples) for branch in range(1, len(entry.tree))]
        sizes = [len(entry.tree) - 2 for entry in examples]
        ref_chosen = ref_rejected = None
        if self.references:
            references = [self.references[entry.history_id, entry.round] for entry in examples]
            ref_chosen = torch.tensor([chosen for chosen, _ in references])
            ref_rejected = torch.zeros(len(references), max(sizes))
            for index, (_, rejected) in enumerate(references):
                ref_rejected[index, : len(rejected)] = torch.tensor(rejected)
        rewards = torch.zeros(len(examples), 1 + max(sizes))
        for index, entry in enumerate(examples):
            rewards[index, : len(entry.rewards)] = torch.tensor(entry.rewards)
        return PreferenceBatch(
            [entry.history_id for entry in examples],
            self.lm.layout([entry.tree for entry in examples]),
            wanted,
            [list(examples[index].tree[branch].ids) for index, branch in wanted],
            sizes,
            ref_chosen,
            ref_rejected,
            examples,
            rewards,
            torch.tensor([entry.weight for entry in examples]),
        )

    def _loader(
        self, examples: list[PreferenceExample], shuffle: bool, rank: int = 0, processes: int = 1
    ) -> BatchLoader[PreferenceExample]:
        lengths = [tree_tokens(entry.tree) for entry in examples]
        return BatchLoader(
            examples, lengths, self.batch_size, self.collate, self.seed, shuffle, rank=rank, processes=processes
        )

    def train_dataloader(self) -> BatchLoader[PreferenceExample]:
        """Shuffled batches, or this rank's shares of them."""
        return self._loader(self.examples, True, *process_rank())

    def predict_dataloader(self) -> BatchLoader[PreferenceExample]:
        """Every set once, the held ones last, or this rank's share of them: for the reference pass."""
        return self._loader([*self.examples, *self.held], False, *process_rank())

    def val_dataloader(self) -> list[BatchLoader[PreferenceExample]]:
        """Batches of the held sets in their order, or this process's shares of them; none without held sets."""
        lengths = [tree_tokens(entry.tree) for entry in self.held]
        return validation_loaders(self.held, lengths, self.batch_size, self.collate)

    def check_batches(self) -> list[PreferenceBatch]:
        """The first training batch and randomly drawn sets, for the check of the loss at step 0.

        An eighth of the sets, at least 8 and at most 32: with 50 sets, checking 32 took a tenth of the stage's time.
        """
        rng = random.Random(self.seed)
        sets = len(self.examples)
        picked = rng.sample(self.examples, min(max(8, sets // 8), 32, sets))
        return [next(iter(self._loader(self.examples, shuffle=True))), *self._loader(picked, shuffle=False)]

    def transfer_batch_to_device(self, batch: PreferenceBatch, device: Any, dataloader_idx: int) -> PreferenceBatch:
        """The batch as it is: the model moves its inputs to its device."""
        return batch
