"""Packs a tree of texts into one row, so that a shared prefix is computed once for all its continuations.

A tree is a list of branches; branch 0 is the root, and every other branch names its parent. A token attends to its
ancestor branches and to its own branch up to itself; positions continue from the parent's end, so for the model each
root-to-leaf path is the same as in a row without the others. `pack` lays trees out that way; `unroll` lays the same
trees out as one plain padded row per leaf, for models that can't use a 4-D mask. Both return a `Layout` with the same
lookups, so callers needn't distinguish them.

Shapes: B rows, T tokens of the longest row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch.nn.attention.flex_attention import BlockMask


class Branch(NamedTuple):
    """A run of tokens that follows its parent branch (-1 for the root)."""

    ids: Sequence[int]
    parent: int = -1


Tree = Sequence[Branch]


class Spot(NamedTuple):
    """Position of a branch: its row, first column, length, and the column that predicts its first token (-1: none)."""

    row: int
    start: int
    length: int
    before: int


@dataclass
class Layout:
    """Rows ready for a forward pass.

    Attributes:
        ids: (B, T) token ids, 0 at padding.
        positions: (B, T) position ids.
        valid: (B, T) True at tokens, False at padding.
        until: (B, T) one past the last column that attends to a column: branches are in preorder, so column q attends
            to column k exactly when k <= q < until[k]. None for plain rows, whose mask is causal.
        spots: per tree, per branch, its position.
    """

    ids: np.ndarray
    positions: np.ndarray
    valid: np.ndarray
    until: np.ndarray | None
    spots: list[list[Spot]] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Number of tokens that the model computes, padding included."""
        return int(self.ids.size)

    def attention_mask(self, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """(B, 1, T, T) additive mask in the model's dtype, or the plain (B, T) mask.

        The mask must be a float: transformers' eager attention adds a bool mask to the scores, which is silently
        wrong. Padding attends to itself, so that no softmax row is empty.
        """
        import torch

        if self.until is None:
            return torch.from_numpy(self.valid.astype(np.int64)).to(device)
        until = torch.from_numpy(self.until).to(device).unsqueeze(1)  # (B, 1, T)
        column = torch.arange(until.shape[-1], device=device)
        query = column.unsqueeze(-1)
        hidden = (column > query) | (query >= until)  # (B, T, T)
        mask = torch.zeros(hidden.shape, dtype=dtype, device=device)
        return mask.masked_fill_(hidden, torch.finfo(dtype).min).unsqueeze(1)

    def block_mask(self, device: torch.device) -> BlockMask:
        """The mask of packed rows for FlexAttention, which skips fully masked blocks."""
        import torch
        from torch.nn.attention.flex_attention import create_block_mask

        B, T = self.ids.shape
        until = torch.from_numpy(self.until).to(device)

        def visible(row: torch.Tensor, _head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            return (key <= query) & (query < until[row, key])

        return create_block_mask(visible, B, None, T, T, device=str(device))


def tree_tokens(tree: Tree) -> int:
    """Tokens of a tree when packed."""
    return sum(len(branch.ids) for branch in tree)


def longest_path(tree: Tree) -> int:
    """Tokens on the longest path from the root to a leaf: the number of positions that a model needs."""
    ends: list[int] = []
    for branch in tree:
        ends.append(len(branch.ids) + (ends[branch.parent] if branch.parent >= 0 else 0))
    return max(ends)


def path_ids(tree: Tree, branch: int) -> list[int]:
    """The tokens from the root to the end of a branch, given by its index."""
    ids: list[int] = []
    while branch >= 0:
        ids = [*tree[branch].ids, *ids]
        branch = tree[branch].parent
    return ids


def _check(tree: Tree) -> None:
    for index, branch in enumerate(tree):
        if not len(branch.ids) or (branch.parent >= index) or (index > 0) != (branch.parent >= 0):
            raise ValueError(f"branch {index} of a tree must have tokens and an earlier parent: {branch!r}")


def first_paths(tree: Tree, most: int) -> Tree:
    """The part of a tree with the paths to its first ``most`` leaves."""
    parents = {branch.parent for branch in tree}
    wanted: set[int] = set()
    for leaf in [index for index in range(len(tree)) if index not in parents][:most]:
        index = leaf
        while index >= 0:
            wanted.add(index)
            index = tree[index].parent
    kept = sorted(wanted)
    new_index = {-1: -1, **{old: new for new, old in enumerate(kept)}}
    return [Branch(tree[old].ids, new_index[tree[old].parent]) for old in kept]


def _width(tokens: int, multiple: int) -> int:
    return -(-tokens // multiple) * multiple


def pack(trees: Sequence[Tree], multiple: int = 1) -> Layout:
    """One row per tree, its branches in preorder, with a mask that hides branches on other paths.

    Args:
        trees: the trees.
        multiple: the width is padded to a multiple of this.
    """
    for tree in trees:
        _check(tree)
    B, T = len(trees), _width(max(tree_tokens(tree) for tree in trees), multiple)
    ids, positions = np.zeros((B, T), np.int64), np.zeros((B, T), np.int64)
    valid, until = np.zeros((B, T), bool), np.tile(np.arange(1, T + 1), (B, 1))
    spots: list[list[Spot]] = []
    for row, tree in enumerate(trees):
        row_spots: dict[int, Spot] = {}
        ends: dict[int, int] = {}  # position that follows each branch
        start = 0
        for index in _preorder(tree):
            tokens, parent = tree[index]
            stop = start + len(tokens)
            first = ends[parent] if parent >= 0 else 0
            before = row_spots[parent].start + row_spots[parent].length - 1 if parent >= 0 else -1
            ids[row, start:stop] = tokens
            positions[row, start:stop] = np.arange(first, first + len(tokens))
            valid[row, start:stop] = True
            row_spots[index] = Spot(row, start, len(tokens), before)
            ends[index] = first + len(tokens)
            ancestor = index
            while ancestor >= 0:  # the branch and its ancestors are visible up to here
                spot = row_spots[ancestor]
                until[row, spot.start : spot.start + spot.length] = stop
                ancestor = tree[ancestor].parent
            start = stop
        spots.append([row_spots[index] for index in range(len(tree))])
    return Layout(ids, positions, valid, until, spots)


def _preorder(tree: Tree) -> list[int]:
    """Branch indices, each followed by all its descendants."""
    children: dict[int, list[int]] = {}
    for index, branch in enumerate(tree):
        children.setdefault(branch.parent, []).append(index)
    order, waiting = [], [0]
    while waiting:
        index = waiting.pop()
        order.append(index)
        waiting.extend(reversed(children.get(index, [])))
    return order


def unroll(trees: Sequence[Tree], multiple: int = 1) -> Layout:
    """One plain right-padded row per leaf. The spot of a branch shared by several leaves is in the first leaf's row."""
    rows: list[list[int]] = []
    spots: list[list[Spot]] = []
    for tree in trees:
        _check(tree)
        parents = {branch.parent for branch in tree}
        tree_spots: dict[int, Spot] = {}
        for leaf in (index for index in range(len(tree)) if index not in parents):
            path = [leaf]
            while tree[path[0]].parent >= 0:
                path.insert(0, tree[path[0]].parent)
            row: list[int] = []
            for index in path:
                spot = Spot(len(rows), len(row), len(tree[index].ids), len(row) - 1)
                tree_spots.setdefault(index, spot)
                row.extend(tree[index].ids)
            rows.append(row)
        spots.append([tree_spots[index] for index in range(len(tree))])
    B, T = len(rows), _width(max(map(len, rows)), multiple)
    ids, valid = np.zeros((B, T), np.int64), np.zeros((B, T), bool)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        valid[index, : len(row)] = True
    return Layout(ids, np.broadcast_to(np.arange(T), (B, T)).copy(), valid, None, spots)
