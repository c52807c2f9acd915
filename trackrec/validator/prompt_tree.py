"""The validator's (V's) prompts as trees: one history, the RecCoTs about it, and the targets under each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from trackrec.llm.chat import ChatEncoder, LabelTokens
from trackrec.llm.packing import Branch, Tree
from trackrec.prompts.book import PromptBook

if TYPE_CHECKING:
    from torch import Tensor


class Question(NamedTuple):
    """One target under one RecCoT, for which V gives P(Yes)."""

    draw: int
    sample_id: str
    item_id: str
    label: int


class ValidatorTree(NamedTuple):
    """A tree and, per question, the branch after whose last token V answers."""

    tree: Tree
    questions: list[Question]
    branches: list[int]


def label_logps(logps: Tensor, labels: LabelTokens) -> Tensor:
    """Log-probabilities of No and Yes among the two: all surface forms of one against all of the other.

    Args:
        logps: (M, L) log-probabilities of ``labels.yes + labels.no`` at the answer position.
        labels: which of the L tokens are which.

    Returns:
        (M, 2), No first.
    """
    import torch

    yes = logps[:, : len(labels.yes)].logsumexp(-1)
    no = logps[:, len(labels.yes) :].logsumexp(-1)
    return torch.stack([no, yes], -1).log_softmax(-1)


def question_tokens(entry: ValidatorTree) -> list[int]:
    """How many tokens V reads for each question: those on the way from the tree's root to the answer."""
    lengths: list[int] = []
    for branch in entry.tree:
        lengths.append(len(branch.ids) + (lengths[branch.parent] if branch.parent >= 0 else 0))
    return [lengths[branch] for branch in entry.branches]


def validator_tree(
    chat: ChatEncoder,
    book: PromptBook,
    history_id: str,
    reccots: Sequence[tuple[int, str | None]],
    targets: Sequence[tuple[str, str, int]],
    history: str | None = None,
) -> ValidatorTree:
    """Every target under every RecCoT of a history.

    A tree's branches are the prompt's segments; equal segments under one parent are one branch, whatever the order of
    the prompt (``prompts.order``).

    Args:
        chat: encodes.
        book: histories, items and words.
        history_id: the history.
        reccots: (draw, text) pairs; with a text of None the prompt has no RecCoT.
        targets: (sample_id, item_id, label) triples.
        history: the segment with which the prompts begin; None is `PromptBook.validator_history`.
    """
    tree: list[Branch] = []
    encoded: dict[str, list[int]] = {}
    branch_of: dict[tuple[int, tuple[int, ...]], int] = {}
    questions, branches = [], []
    for draw, text in reccots:
        for sample_id, item_id, label in targets:
            parent = -1
            prompt = book.validator_prompt(history_id, text, item_id, history)
            for ids in chat.encode_segments(prompt, encoded, book.settings.prefilled):
                key = (parent, tuple(ids))
                if key not in branch_of:
                    branch_of[key] = len(tree)
                    tree.append(Branch(ids, parent))
                parent = branch_of[key]
            questions.append(Question(draw, sample_id, item_id, label))
            branches.append(parent)
    return ValidatorTree(tree, questions, branches)
