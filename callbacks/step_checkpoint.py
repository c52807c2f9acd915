"""Small checkpoints of language-model training, between optimizer steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint


class StepCheckpoint(Checkpoint):
    """Writes one file after every n-th optimizer step, each time the same.

    Lightning's `ModelCheckpoint` doesn't remember across a resume which step it saved last, and would save again on the
    next batch: in the middle of gradient accumulation, whose gradients aren't in a checkpoint.

    Args:
        path: the file that is written.
        every: optimizer steps between two checkpoints.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path = path
        self.every = every
        self._saved = 0
        self._due = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The step that training resumes from is already saved."""
        self._saved = trainer.global_step
        self._due = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save right after the step, before the next batch adds a gradient; but after a validation that follows it."""
        self._due = trainer.global_step != self._saved and trainer.global_step % self.every == 0
        if not (trainer.enable_validation and (trainer.is_last_batch or _validates(trainer, batch_idx))):
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what waited for a validation inside an epoch: a resumed training doesn't make up for it."""
        if not (trainer.sanity_checking or trainer.is_last_batch):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what waited for the validation: a training that is cut during it validates again when it resumes."""
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if self._due:
            self._due = False
            self._saved = trainer.global_step
            trainer.save_checkpoint(self.path, weights_only=False)


def _validates(trainer: Trainer, batch_idx: int) -> bool:
    """Whether a validation follows a batch inside an epoch; see Lightning's ``val_check_interval``."""
    every, epochs = trainer.val_check_batch, trainer.check_val_every_n_epoch
    if every is None or (epochs is not None and (trainer.current_epoch + 1) % epochs):
        return False
    done = batch_idx + 1 if epochs is not None else trainer.fit_loop.total_batch_idx + 1
    return done % every == 0
