"""The training of a CTR net, whichever it is."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC


class CTRModule(pl.LightningModule):
    """Binary cross-entropy on logits with Adam at a constant rate.

    A net with a loss of its own beside it (``with_auxiliary``, as DIEN) has it added in training.

    Logs ``train/loss`` every ``log_every_n_steps`` and, once per validation, ``valid/auc`` (exact, over all rows),
    ``valid/acc`` (threshold 0.5) and ``valid/log_loss`` (nats per row).

    Args:
        net: batch -> logits (B,).
        lr: Adam's step.
        weight_decay: L2 added to the gradient, as Adam does (not AdamW).
    """

    def __init__(self, net: nn.Module, lr: float = 1e-3, weight_decay: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters({"lr": lr, "weight_decay": weight_decay})
        self.net = net
        self.lr, self.weight_decay = lr, weight_decay
        self.auc = BinaryAUROC()
        self.accuracy = BinaryAccuracy()

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits (B,)."""
        return self.net(batch)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean cross-entropy of the batch, and the net's auxiliary loss where it has one."""
        with_auxiliary = getattr(self.net, "with_auxiliary", None)
        logits, auxiliary = (self(batch), 0.0) if with_auxiliary is None else with_auxiliary(batch)
        return F.binary_cross_entropy_with_logits(logits, batch["label"]) + auxiliary

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The loss of the batch.

        Raises:
            FloatingPointError: it is no finite number. No step is made of it.
        """
        loss = self.loss(batch)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"{type(self.net).__name__}: the loss is {loss.item()} at step {self.global_step} of epoch "
                f"{self.current_epoch}. Lower ctr.model.lr (now {self.lr}) or set ctr.trainer.gradient_clip_val."
            )
        # A step takes ten milliseconds and logging one of them; a logger gets no more than this anyway.
        every = getattr(self.trainer, "log_every_n_steps", 0)
        if every and (batch_idx + 1) % every == 0:
            self.log("train/loss", loss, on_step=True, on_epoch=False, batch_size=len(batch["label"]))
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Collect the batch; the metrics are of the whole split."""
        logits, label = self(batch), batch["label"]
        p = logits.sigmoid()
        self.auc.update(p, label.long())
        self.accuracy.update(p, label.long())
        loss = F.binary_cross_entropy_with_logits(logits, label)
        self.log("valid/log_loss", loss, on_step=False, on_epoch=True, batch_size=len(label))
        self.log("valid/auc", self.auc, on_step=False, on_epoch=True, batch_size=len(label))
        self.log("valid/acc", self.accuracy, on_step=False, on_epoch=True, batch_size=len(label))

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """P(label = 1), (B,)."""
        return self(batch).sigmoid()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over every parameter; on CPU its fused form, which takes half the time of the loop over parameters.

        Lightning clips no gradients of a fused optimizer in mixed precision.
        """
        clips = self._trainer is not None and self._trainer.gradient_clip_val
        fused = self.device.type == "cpu" and not clips
        return torch.optim.Adam(self.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=fused)
