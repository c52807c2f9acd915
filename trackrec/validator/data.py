"""Rec-Tuning rows: history, greedy RecCoT and target, several targets per history.

Letters: M questions, each a target under a text.
"""

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
from trackrec.storage.atomic import stable_hash
from trackrec.validator.prompt_tree import ValidatorTree, validator_tree

Targets = Mapping[str, Sequence[tuple[str, str, int]]]  # history_id -> (sample_id, item_id, label) triples
OWN, WRONG = 0, 1
"""The draws under which a history's own text and another user's stand in an example."""
_DIGITS = 12  # of a hash
_HASHES: int = 16**_DIGITS


class ValidatorBatch(NamedTuple):
    """Packed rows of some examples.

    Attributes:
        layout: the rows.
        spots: the M branch ends where the validator answers.
        ids: the sample id of each.
        labels: its label.
        examples: the examples.
        answered: the questions whose answer is trained, as numbers below M.
        pairs: (own, wrong): the questions of one target under the own and under another user's text.
        contrast: the coefficient of the pairs' loss.
    """

    layout: Layout
    spots: list[Spot]
    ids: list[str]
    labels: list[int]
    examples: list[ValidatorTree]
    answered: list[int]
    pairs: list[tuple[int, int]]
    contrast: float


def check_options(options: Mapping[str, Any]) -> None:
    """Check the options of ``rec_tune.data`` that concern what V reads.

    Raises:
        SettingError: one is out of range; names the key.
    """
    for key in ("wrong_texts", "hide_history"):
        if not 0 <= (share := options.get(key, 0.0)) <= 1:
            raise SettingError(f"rec_tune.data.{key} must be in [0, 1], a share of the histories, got {share}.")
    if (contrast := options.get("contrast", 0.0)) < 0:
        raise SettingError(f"rec_tune.data.contrast must be at least 0, got {contrast}.")


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
        others: another user's text for each history; None, or a history without one: it has no wrong text.
        wrong_texts: for this share of the histories, picked by hash, V also answers on the same targets with another
            user's text, and learns the true labels: a text may be wrong, and what it says must fit the history.
        contrast: weight of a margin between the two texts. Each target adds ``contrast * softplus(-(own - wrong))``
            nats to the loss, where ``own`` and ``wrong`` are the log-probabilities of the true label among Yes and No
            with the text about the user and with another user's: V learns that what a text says matters. 0 leaves it
            out. V can also lower this by answering against the history where it notices that a text is wrong;
            ``wrong_texts`` keeps it from that.
        hide_history: in this share of the histories, picked by hash, V's prompts list no history (as with
            ``prompts.validator.max_history: 0`` and nothing counted): all that tells of the user is the text.

    These three are for a V that reads texts: one that is tuned without any ignores them.
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
        others: Mapping[str, str] | None = None,
        wrong_texts: float = 0.0,
        contrast: float = 0.0,
        hide_history: float = 0.0,
    ) -> None:
        super().__init__()
        if samples_per_history < 1:
            raise SettingError(f"rec_tune.data.samples_per_history must be at least 1, got {samples_per_history}.")
        check_options({"wrong_texts": wrong_texts, "contrast": contrast, "hide_history": hide_history})
        self.lm, self.book, self.texts, self.targets, self.held = lm, book, texts, targets, held or {}
        self.seed, self.batch_size, self.samples_per_history = seed, batch_size, samples_per_history
        self.others = {key: text for key, text in (others or {}).items() if texts[key] is not None}
        self.wrong_texts, self.contrast, self.hide_history = wrong_texts, contrast, hide_history

    def setup(self, stage: str) -> None:
        """Encode every history; ``counts`` then says how many have a wrong text, and how many are hidden.

        Raises:
            ValueError: a history has more targets than ``samples_per_history``.
            SettingError: a prompt is longer than the model's context.
        """
        most = max(map(len, self.targets.values()))
        if most > self.samples_per_history:
            raise ValueError(f"a history has {most} tuning rows, samples_per_history is {self.samples_per_history}")
        self._answered_wrong = {
            sample_id for key, rows in self.targets.items() if self.answers_wrong(key) for sample_id, _, _ in rows
        }
        self.examples = [self._example(history_id, rows) for history_id, rows in sorted(self.targets.items())]
        found = {
            "with_wrong_text": sum(entry.questions[-1].draw == WRONG for entry in self.examples),
            "without_history": sum(map(self.hides, self.targets)),
        }
        self.counts = {key: count for key, count in found.items() if count}
        self.held_examples = [self._tree(history_id, rows) for history_id, rows in sorted(self.held.items())]
        self.lm.check_reach((entry.tree for entry in (*self.examples, *self.held_examples)), "validator")

    def _example(self, history_id: str, rows: Sequence[tuple[str, str, int]]) -> ValidatorTree:
        """A history's prompts as they are trained on."""
        wrong = self.others.get(history_id)
        more = [(WRONG, wrong)] if wrong is not None and (self.contrast or self.answers_wrong(history_id)) else []
        history = self.book.hidden_history(history_id) if self.hides(history_id) else None
        return self._tree(history_id, rows, more, history)

    def _tree(
        self,
        history_id: str,
        rows: Sequence[tuple[str, str, int]],
        more: Sequence[tuple[int, str | None]] = (),
        history: str | None = None,
    ) -> ValidatorTree:
        reccots = [(OWN, self.texts[history_id]), *more]
        return validator_tree(self.lm.chat, self.book, history_id, reccots, rows, history)

    def answers_wrong(self, history_id: str) -> bool:
        """Whether V also learns the labels of a history's targets with another user's text."""
        return history_id in self.others and self._picks("wrong_texts", history_id, self.wrong_texts)

    def hides(self, history_id: str) -> bool:
        """Whether V's prompts about a history don't list it."""
        return self.texts[history_id] is not None and self._picks("hide_history", history_id, self.hide_history)

    def _picks(self, option: str, history_id: str, share: float) -> bool:
        number = int(stable_hash(option, self.seed, history_id, digits=_DIGITS), 16)
        return number < share * _HASHES

    def collate(self, trees: list[ValidatorTree]) -> ValidatorBatch:
        """Rows and answer positions of some histories."""
        layout = self.lm.layout([entry.tree for entry in trees])
        spots = [layout.spots[index][branch] for index, entry in enumerate(trees) for branch in entry.branches]
        questions = [question for entry in trees for question in entry.questions]
        samples = [question.sample_id for question in questions]
        labels = [question.label for question in questions]
        answered = [
            number
            for number, question in enumerate(questions)
            if question.draw == OWN or question.sample_id in self._answered_wrong
        ]
        own = {question.sample_id: number for number, question in enumerate(questions) if question.draw == OWN}
        pairs = [
            (own[question.sample_id], number) for number, question in enumerate(questions) if question.draw == WRONG
        ]
        return ValidatorBatch(layout, spots, samples, labels, trees, answered, pairs, self.contrast)

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
