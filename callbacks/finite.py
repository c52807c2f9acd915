"""Stop a training whose loss is no number any more."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class StopOnNonFinite(Callback):
    """Ends the stage at the first loss that is NaN or infinite; the last checkpoint stays.

    Raises:
        FloatingPointError: with the step and the loss.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the loss of the batch."""
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if loss is not None and not bool(torch.isfinite(loss).all()):
            raise FloatingPointError(
                f"{type(pl_module).__name__}: the loss is {loss.item()} at step {trainer.global_step}, batch "
                f"{batch_idx}. Lower model.lr or set trainer.gradient_clip_val; the last checkpoint is kept."
            )
