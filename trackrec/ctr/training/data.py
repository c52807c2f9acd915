"""The in-memory loader of the CTR nets.

Letters: N rows, B batch, H recent list, A attributes, D text dim.
"""

from __future__ import annotations

from collections.abc import Iterator

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from trackrec.ctr.features.features import CTRData
from trackrec.runtime.errors import SettingError


class TensorLoader:
    """Batches by slicing tensors. Batch i of an epoch is a pure function of (seed, epoch, i).

    Lightning sets the epoch through ``sampler.set_epoch``, as it does for samplers of a ``DataLoader``.

    Args:
        data: the features.
        split: which rows.
        arm: whose texts or dense columns the batch holds; ``none``: neither.
        batch_size: B; the last batch may be smaller.
        shuffle: a new permutation of the rows each epoch.
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
            raise SettingError(f"batch_size must be at least 1, got {batch_size}. Set it under ctr.data.")
        data.spec_for(arm)  # raises where the arm is unknown
        self.columns = {name: t for name, t in data.splits[split].items() if labels or name != "label"}
        self.item_attributes = data.item_attributes
        self.text = data.arms.get(arm)
        self.columns["dense"] = data.dense(split, arm)
        self.n_rows = len(self.columns["item"])
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.epoch = 0

    batch_sampler = None  # Lightning reads it as well as ``sampler``

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
        ``text`` (B, D) where the arm has texts, and ``text_mask`` (B,) bool where rows may lack one.
        """
        # index_select takes a third of the time of indexing by brackets.
        batch = {name: column.index_select(0, index) for name, column in self.columns.items()}
        batch["item_attributes"] = self.item_attributes.index_select(0, batch.pop("item_row"))
        recent = batch.pop("recent_rows")
        batch["recent_attributes"] = self.item_attributes.index_select(0, recent.flatten()).unflatten(0, recent.shape)
        history = batch.pop("history")
        if self.text is not None:
            text = self.text.rows[history]
            batch["text"] = self.text.matrix[text]  # -1 reads the last text, which the mask then hides
            if self.text.gaps:
                batch["text_mask"] = text >= 0
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

    def transfer_batch_to_device(
        self, batch: dict[str, Tensor], device: torch.device, dataloader_idx: int
    ) -> dict[str, Tensor]:
        """The batch on the device, without Lightning's search for tensors in nested collections."""
        return {name: value.to(device, non_blocking=True) for name, value in batch.items()}

    def predict_loader(self, split: str) -> TensorLoader:
        """Rows of a split in order, without labels."""
        return TensorLoader(self.data, split, self.arm, self.eval_batch_size, labels=False)
