"""Text arms and the in-memory loader of the CTR nets.

Letters: N rows, B batch, H recent list, A attributes, D text dim. Arms differ in the text matrix and its row index
only; the other tensors are shared, so the rows, their order and their features are the same in every arm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trackrec.ctr.features import CTRData, TextArm


class MissingEmbeddingError(KeyError):
    """Histories that samples refer to have no vector."""

    def __str__(self) -> str:
        return str(self.args[0])


def attach_text(data: CTRData, arm: str, history_ids: Sequence[str], vectors: NDArray[np.floating] | Tensor) -> CTRData:
    """``data`` with the texts of an arm.

    Args:
        data: the features.
        arm: its name; ``none`` is taken by "no text".
        history_ids: (n_texts,) whose text each vector is.
        vectors: (n_texts, D).

    Raises:
        MissingEmbeddingError: a history of some sample has no vector. None becomes zeros.
        ValueError: a repeated history, a non-finite vector, or shapes that don't fit.
    """
    matrix = torch.as_tensor(vectors).to(torch.float32)
    if arm == "none" or matrix.ndim != 2 or len(matrix) != len(history_ids):
        raise ValueError(f"arm {arm!r}: need a name and one vector per history, got {tuple(matrix.shape)}.")
    position = {history: row for row, history in enumerate(history_ids)}
    if len(position) != len(history_ids):
        raise ValueError(f"arm {arm!r}: {len(history_ids) - len(position)} histories have more than one vector.")
    if not torch.isfinite(matrix).all():
        raise ValueError(f"arm {arm!r}: {int((~torch.isfinite(matrix)).any(1).sum())} vectors hold NaN or infinity.")
    used = torch.cat([split["history"] for split in data.splits.values()]).unique().tolist()
    missing = [data.history_ids[row] for row in used if data.history_ids[row] not in position]
    if missing:
        raise MissingEmbeddingError(
            f"arm {arm!r}: {len(missing)} of {len(used)} histories have no embedding, first {missing[:3]}. "
            "Run the embed stage for them."
        )
    # -1 marks histories that no sample uses.
    rows = torch.tensor([position.get(history, -1) for history in data.history_ids], dtype=torch.int64)
    return replace(data, arms={**data.arms, arm: TextArm(matrix, rows)})


def attach_shuffled(data: CTRData, source: str = "reccot", arm: str = "shuffled", seed: int = 0) -> CTRData:
    """``data`` with an arm that gives each user another user's texts.

    The users with texts form one random cycle (Sattolo 1986), so nobody keeps their own; a user's histories take the
    next user's in turn.

    Raises:
        ValueError: fewer than two users have texts.
    """
    data.spec_for(source)
    texts = data.arms[source]
    owned: dict[str, list[int]] = {}
    for history in torch.nonzero(texts.rows >= 0).flatten().tolist():
        owned.setdefault(data.history_users[history], []).append(history)
    if len(owned) < 2:
        raise ValueError(f"arm {arm!r}: shuffling needs the texts of two users, arm {source!r} has {len(owned)}.")
    cycle = np.random.default_rng(seed).permutation(sorted(owned)).tolist()
    rows = texts.rows.clone()
    for user, other in zip(cycle, cycle[1:] + cycle[:1], strict=True):
        for place, history in enumerate(owned[user]):
            rows[history] = texts.rows[owned[other][place % len(owned[other])]]
    return replace(data, arms={**data.arms, arm: TextArm(texts.matrix, rows)})


class TensorLoader:
    """Batches by slicing tensors. Batch i of an epoch is a pure function of (seed, epoch, i).

    Lightning tells the epoch through ``sampler.set_epoch``, as it does for samplers of a ``DataLoader``.

    Args:
        data: the features.
        split: which rows.
        arm: which texts; ``none``: no ``text`` in the batch.
        batch_size: B; the last batch may be smaller.
        shuffle: permute the rows anew each epoch.
        seed: of the permutations.
        labels: whether batches hold ``label``.
    """

    def __init__(
        self,
        data: CTRData,
        split: str,
        arm: str = "none",
        batch_size: int = 512,
        shuffle: bool = False,
        seed: int = 0,
        labels: bool = True,
    ) -> None:
        if split not in data.splits:
            raise KeyError(f"split must be one of {list(data.splits)}, got {split!r}.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}. Set it under ctr.data.")
        data.spec_for(arm)
        self.columns = {name: t for name, t in data.splits[split].items() if labels or name != "label"}
        self.item_attributes = data.item_attributes
        self.text = None if arm == "none" else data.arms[arm]
        self.n_rows = len(self.columns["item"])
        self.batch_size, self.shuffle, self.seed, self.epoch = batch_size, shuffle, seed, 0

    batch_sampler = None  # Lightning asks for it beside ``sampler``

    @property
    def sampler(self) -> TensorLoader:
        """Where Lightning looks for ``set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.n_rows // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        order = self.order(self.epoch)
        for i in range(len(self)):
            yield self.rows(order[i * self.batch_size : (i + 1) * self.batch_size])

    def order(self, epoch: int) -> Tensor:
        """(N,) row numbers in the order of an epoch."""
        if not self.shuffle:
            return torch.arange(self.n_rows)
        return torch.from_numpy(np.random.default_rng([self.seed, epoch]).permutation(self.n_rows))

    def rows(self, index: Tensor) -> dict[str, Tensor]:
        """The batch of the given rows (B,): the columns, ``item_attributes`` (B, A), ``recent_attributes`` (B, H, A),
        and ``text`` (B, D) where the arm has texts.
        """
        batch = {name: column[index] for name, column in self.columns.items()}
        batch["item_attributes"] = self.item_attributes[batch.pop("item_row")]
        batch["recent_attributes"] = self.item_attributes[batch.pop("recent_rows")]
        history = batch.pop("history")
        if self.text is not None:
            batch["text"] = self.text.matrix[self.text.rows[history]]
        return batch


class CTRDataModule(pl.LightningDataModule):
    """Loaders over in-memory tensors: train shuffled by (seed, epoch), valid and prediction in order.

    Args:
        data: the features.
        arm: which texts.
        batch_size: rows of a training step.
        eval_batch_size: rows of a batch without gradients.
        seed: of the shuffling.
    """

    def __init__(
        self, data: CTRData, arm: str = "none", batch_size: int = 512, eval_batch_size: int = 8192, seed: int = 0
    ) -> None:
        super().__init__()
        self.data, self.arm, self.seed = data, arm, seed
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size

    def train_dataloader(self) -> TensorLoader:
        """Shuffled train rows."""
        return TensorLoader(self.data, "train", self.arm, self.batch_size, shuffle=True, seed=self.seed)

    def val_dataloader(self) -> TensorLoader:
        """Valid rows in order."""
        return TensorLoader(self.data, "valid", self.arm, self.eval_batch_size)

    def predict_loader(self, split: str) -> TensorLoader:
        """Rows of a split in order, without labels."""
        return TensorLoader(self.data, split, self.arm, self.eval_batch_size, labels=False)
