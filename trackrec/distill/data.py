"""Teacher texts as training examples for the generator (G)."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import LightningDataModule

from trackrec.llm.backbone import LanguageModel
from trackrec.llm.packing import Branch, Layout, Tree, tree_tokens
from trackrec.llm.training.batches import BatchLoader, validation_loaders
from trackrec.llm.training.distributed import process_rank
from trackrec.prompts.book import PromptBook
from trackrec.runtime.errors import SettingError
from trackrec.storage.parts import read_dataset


class ResponseExample(NamedTuple):
    """One teacher text: branch 0 is the prompt, 1 the response."""

    history_id: str
    tree: Tree


class ResponseBatch(NamedTuple):
    """Rows of prompt and response, where the responses are, and the examples, to build smaller batches from."""

    ids: list[str]
    layout: Layout
    wanted: list[tuple[int, int]]
    tokens: list[list[int]]
    examples: list[ResponseExample]


class DistillData(LightningDataModule):
    """One example per finished teacher text: G's prompt, then the text and the end-of-text token.

    Args:
        lm: the model; it encodes texts and lays out rows.
        book: histories and words.
        teacher_dir: stage directory with the reccots table of the teacher.
        held: histories whose texts validate instead of training.
        seed: of the shuffling.
        batch_size: texts per batch.
        batch_tokens: if given, a batch holds as many texts as fit, prompts and padding counted, in place of
            ``batch_size``.
    """

    def __init__(
        self,
        lm: LanguageModel,
        book: PromptBook,
        teacher_dir: Path,
        held: Collection[str] = (),
        seed: int = 0,
        batch_size: int = 16,
        batch_tokens: int | None = None,
    ) -> None:
        super().__init__()
        self.lm, self.book, self.teacher_dir, self.held = lm, book, teacher_dir, held
        self.seed, self.batch_size, self.batch_tokens = seed, batch_size, batch_tokens

    def setup(self, stage: str) -> None:
        """Encode every text.

        Raises:
            SettingError: the teacher finished no text to train on, or a text is longer than the model's context.
        """
        # A text cut by the length limit would teach G to stop in mid-sentence.
        rows = [row for row in read_dataset(self.teacher_dir, "reccots") if row["finish_reason"] == "stop"]
        if not rows:
            raise SettingError(
                "the teacher wrote no finished text: raise teacher.init_args.fraction, or max_new_tokens where it has "
                "one."
            )
        self.examples: list[ResponseExample] = []
        self.held_examples: list[ResponseExample] = []
        for row in rows:
            prompt = self.lm.chat.encode_prompt(self.book.reccot_prompt(row["history_id"]))
            response = self.lm.chat.encode_response(row["text"])
            examples = self.held_examples if row["history_id"] in self.held else self.examples
            examples.append(ResponseExample(row["history_id"], [Branch(prompt), Branch(response, 0)]))
        if not self.examples:
            raise SettingError("every text of the teacher is held back for validation: lower loop.hold.")
        self.lm.check_reach((entry.tree for entry in (*self.examples, *self.held_examples)), "generator")

    def collate(self, examples: list[ResponseExample]) -> ResponseBatch:
        """Rows whose second branch is the response."""
        trees = [entry.tree for entry in examples]
        wanted = [(index, 1) for index in range(len(trees))]
        ids = [entry.history_id for entry in examples]
        return ResponseBatch(ids, self.lm.layout(trees), wanted, [list(tree[1].ids) for tree in trees], examples)

    def train_dataloader(self) -> BatchLoader[ResponseExample]:
        """Shuffled batches, or this process's shares of them."""
        lengths = [tree_tokens(entry.tree) for entry in self.examples]
        rank, size = process_rank()
        return BatchLoader(
            self.examples,
            lengths,
            self.batch_size,
            self.collate,
            self.seed,
            rank=rank,
            processes=size,
            batch_tokens=self.batch_tokens,
        )

    def val_dataloader(self) -> list[BatchLoader[ResponseExample]]:
        """Batches of the held texts in their order, or this process's shares of them; none without held texts."""
        held = self.held_examples
        return validation_loaders(held, [tree_tokens(entry.tree) for entry in held], self.batch_size, self.collate)

    def transfer_batch_to_device(self, batch: ResponseBatch, device: Any, dataloader_idx: int) -> ResponseBatch:
        """Nothing to move: the model puts its inputs on its device."""
        return batch
