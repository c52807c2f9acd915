"""The Lightning module that trains any CTR net."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC

from trackrec.ctr.training.lazy_adam import LazyAdam
from trackrec.runtime.errors import DivergedError, SettingError


def check_lazy_rows(lazy_rows: int | None, clips: float | None = None) -> None:
    """Check that ``lazy_rows`` can be used; ``clips`` is the trainer's ``gradient_clip_val``.

    Raises:
        SettingError: ``lazy_rows`` is below 1, or gradients are clipped.
    """
    if lazy_rows is None:
        return
    if lazy_rows < 1:
        raise SettingError(f"ctr.model.lazy_rows must be at least 1, or null, got {lazy_rows}.")
    if clips:
        raise SettingError(
            f"ctr.model.lazy_rows ({lazy_rows}) makes sparse gradients, which ctr.trainer.gradient_clip_val ({clips}) "
            "can't clip. Set one of them to null."
        )


class CTRModule(pl.LightningModule):
    """Binary cross-entropy on logits with Adam at a constant rate.

    If the net has an auxiliary loss (``with_auxiliary``, as DIEN), it is added in training.

    Logs ``train/loss`` every ``log_every_n_steps`` and, once per validation, ``valid/auc`` (exact, over all rows),
    ``valid/acc`` (threshold 0.5) and ``valid/log_loss`` (nats per row).

    Args:
        build_net: makes the net, batch -> logits (B,). `configure_model` calls it once: a Trainer thus creates the
            weights on the device that trains.
        lr: Adam's step.
        weight_decay: L2 added to the gradient, as Adam does (not AdamW).
        lazy_rows: in embedding tables of at least so many rows, a step updates only the rows that its batch reads
            (`trackrec.ctr.training.lazy_adam`); null: every step updates every row, as Adam does. With a million items
            a step over the whole table is nearly all of the work.
        compile: train through ``torch.compile``, which needs a C++ compiler and most of a minute at the first step: for
            large datasets (docs/benchmarks.md). The saved net is the plain one.
    """

    def __init__(
        self,
        build_net: Callable[[], nn.Module],
        lr: float = 1e-3,
        weight_decay: float = 1e-3,
        lazy_rows: int | None = None,
        compile: bool = False,  # noqa: A002 - torch's word
    ) -> None:
        super().__init__()
        check_lazy_rows(lazy_rows)
        self.save_hyperparameters({"lr": lr, "weight_decay": weight_decay, "lazy_rows": lazy_rows, "compile": compile})
        self._build_net = build_net
        self.lr, self.weight_decay, self.lazy_rows, self.compiled = lr, weight_decay, lazy_rows, compile
        self._full_batch: int | None = None
        self.auc = BinaryAUROC()
        self.accuracy = BinaryAccuracy()

    def configure_model(self) -> None:
        """Make the net, unless it is there already: Lightning calls this before each fit, validation or prediction."""
        if "net" in self._modules:
            return
        self.net = net = self._build_net()
        # A net with an auxiliary loss returns logits and that loss.
        self._with_auxiliary: bool = hasattr(net, "with_auxiliary")
        self._plain: Callable[..., Any] = net.with_auxiliary if self._with_auxiliary else net.__call__  # type: ignore
        # Compile the function: a compiled module would register the net twice.
        self._trained = torch.compile(self._plain, dynamic=False) if self.compiled else self._plain
        if self.lazy_rows is not None:
            for table in net.modules():
                if isinstance(table, nn.Embedding):
                    table.sparse = table.num_embeddings >= self.lazy_rows

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits (B,)."""
        logits: Tensor = self.net(batch)
        return logits

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean cross-entropy of the batch, and the net's auxiliary loss where it has one."""
        rows = len(batch["label"])
        self._full_batch = self._full_batch or rows
        # A last batch of another size isn't worth a second compilation.
        out = (self._trained if rows == self._full_batch else self._plain)(batch)
        logits, auxiliary = out if self._with_auxiliary else (out, 0.0)
        return F.binary_cross_entropy_with_logits(logits, batch["label"]) + auxiliary

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The loss of the batch.

        Raises:
            DivergedError: it isn't finite. No step is taken.
        """
        loss = self.loss(batch)
        if not torch.isfinite(loss):
            raise DivergedError(
                f"{type(self.net).__name__}: the loss is {loss.item()} at step {self.global_step} of epoch "
                f"{self.current_epoch}. Lower ctr.model.lr (now {self.lr}) or set ctr.trainer.gradient_clip_val."
            )
        # Logging takes one of a step's ten milliseconds, and a logger writes no more often than this anyway.
        every = getattr(self.trainer, "log_every_n_steps", 0)
        if every and (batch_idx + 1) % every == 0:
            self.log("train/loss", loss, on_step=True, on_epoch=False, batch_size=len(batch["label"]))
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Collect the batch; the metrics are computed over the whole split."""
        logits = self(batch)
        label = batch["label"]
        p = logits.sigmoid()
        self.auc.update(p, label.long())
        self.accuracy.update(p, label.long())
        loss = F.binary_cross_entropy_with_logits(logits, label)
        self.log("valid/log_loss", loss, on_step=False, on_epoch=True, batch_size=len(label))
        self.log("valid/auc", self.auc, on_step=False, on_epoch=True, batch_size=len(label))
        self.log("valid/acc", self.accuracy, on_step=False, on_epoch=True, batch_size=len(label))

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """P(label = 1), (B,)."""
        logits: Tensor = self(batch)
        return logits.sigmoid()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over every parameter; on CPU its fused form, which takes half the time of the loop over parameters.

        Lightning clips no gradients of a fused optimizer in mixed precision.

        Raises:
            SettingError: gradients are clipped, while those of large tables are sparse.
        """
        clips = self._trainer is not None and self._trainer.gradient_clip_val
        check_lazy_rows(self.lazy_rows, clips)
        fused = self.device.type == "cpu" and not clips
        adam = torch.optim.Adam if self.lazy_rows is None else LazyAdam
        return adam(self.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=fused)
