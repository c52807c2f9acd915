"""Trees of text in one row: a shared prefix is computed once for all that follows it.

A tree is a list of branches; branch 0 is the root, and a branch names its parent. A token sees its ancestors' branches
and its own branch up to itself; positions continue from the parent's end, so each root-to-leaf path looks to the model
exactly as if it stood alone. `pack` lays trees out that way; `unroll` lays the same trees out as one plain padded row
per leaf, for models that a 4-D mask can't serve. Both answer the same questions, so callers don't care.

Shapes: B rows, T tokens of the longest row, M asked positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch


class Branch(NamedTuple):
    """A run of tokens that follows its parent branch (-1 for the root)."""

    ids: Sequence[int]
    parent: int = -1


Tree = Sequence[Branch]


class Spot(NamedTuple):
    """Where a branch lies: its row, its first column, its length, and the column that predicts its first token."""

    row: int
    start: int
    length: int
    before: int


@dataclass
class Layout:
    """Rows ready for a forward pass.

    Attributes:
        ids: (B, T) token ids, 0 where padded.
        positions: (B, T) position ids.
        valid: (B, T) True where a token stands.
        visible: (B, T, T) which token sees which; None for plain rows, whose mask is causal.
        spots: per tree, per branch, where it lies.
    """

    ids: np.ndarray
    positions: np.ndarray
    valid: np.ndarray
    visible: np.ndarray | None
    spots: list[list[Spot]] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Tokens that the model computes, padding included."""
        return int(self.ids.size)

    def attention_mask(self, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """(B, 1, T, T) additive mask in the model's dtype, or the plain (B, T) mask.

        The mask must be a float: transformers' eager attention adds a bool mask to the scores, which is wrong in
        silence. Padding sees itself, so that no softmax row is empty.
        """
        import torch

        if self.visible is None:
            return torch.from_numpy(self.valid.astype(np.int64)).to(device)
        visible = torch.from_numpy(self.visible).to(device)
        mask = torch.zeros(visible.shape, dtype=dtype, device=device)
        return mask.masked_fill_(~visible, torch.finfo(dtype).min).unsqueeze(1)


def tree_tokens(tree: Tree) -> int:
    """Tokens of a tree when packed."""
    return sum(len(branch.ids) for branch in tree)


def longest_path(tree: Tree) -> int:
    """Tokens from the root to the end of the longest leaf: the positions that a model must reach."""
    ends: list[int] = []
    for branch in tree:
        ends.append(len(branch.ids) + (ends[branch.parent] if branch.parent >= 0 else 0))
    return max(ends)


def _check(tree: Tree) -> None:
    for index, branch in enumerate(tree):
        if not len(branch.ids) or (branch.parent >= index) or (index > 0) != (branch.parent >= 0):
            raise ValueError(f"branch {index} of a tree must have tokens and an earlier parent: {branch!r}")


def _width(tokens: int, multiple: int) -> int:
    return -(-tokens // multiple) * multiple


def pack(trees: Sequence[Tree], multiple: int = 1) -> Layout:
    """One row per tree, each branch after its parent, with a mask that hides the other branches.

    Args:
        trees: the trees.
        multiple: the width is padded to a multiple of this.
    """
    for tree in trees:
        _check(tree)
    B, T = len(trees), _width(max(tree_tokens(tree) for tree in trees), multiple)
    ids, positions = np.zeros((B, T), np.int64), np.zeros((B, T), np.int64)
    valid, visible = np.zeros((B, T), bool), np.zeros((B, T, T), bool)
    visible[:, np.arange(T), np.arange(T)] = True
    spots: list[list[Spot]] = []
    for row, tree in enumerate(trees):
        ends: list[int] = []  # position that follows each branch
        kin: list[list[int]] = []  # each branch's ancestors and itself
        placed: list[Spot] = []
        start = 0
        for index, (tokens, parent) in enumerate(tree):
            stop = start + len(tokens)
            first = ends[parent] if parent >= 0 else 0
            before = placed[parent].start + placed[parent].length - 1 if parent >= 0 else -1
            ids[row, start:stop] = tokens
            positions[row, start:stop] = np.arange(first, first + len(tokens))
            valid[row, start:stop] = True
            kin.append([*(kin[parent] if parent >= 0 else []), index])
            placed.append(Spot(row, start, len(tokens), before))
            for relative in kin[index][:-1]:
                spot = placed[relative]
                visible[row, start:stop, spot.start : spot.start + spot.length] = True
            visible[row, start:stop, start:stop] = np.tri(len(tokens), dtype=bool)
            ends.append(first + len(tokens))
            start = stop
        spots.append(placed)
    return Layout(ids, positions, valid, visible, spots)


def unroll(trees: Sequence[Tree], multiple: int = 1) -> Layout:
    """One plain right-padded row per leaf. A branch with several leaves below it is answered from the first."""
    rows: list[list[int]] = []
    spots: list[list[Spot]] = []
    for tree in trees:
        _check(tree)
        parents = {branch.parent for branch in tree}
        found: dict[int, Spot] = {}
        for leaf in (index for index in range(len(tree)) if index not in parents):
            path = [leaf]
            while tree[path[0]].parent >= 0:
                path.insert(0, tree[path[0]].parent)
            row: list[int] = []
            for index in path:
                spot = Spot(len(rows), len(row), len(tree[index].ids), len(row) - 1)
                found.setdefault(index, spot)
                row.extend(tree[index].ids)
            rows.append(row)
        spots.append([found[index] for index in range(len(tree))])
    B, T = len(rows), _width(max(map(len, rows)), multiple)
    ids, valid = np.zeros((B, T), np.int64), np.zeros((B, T), bool)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        valid[index, : len(row)] = True
    return Layout(ids, np.broadcast_to(np.arange(T), (B, T)).copy(), valid, None, spots)
