"""Adapters of the generator (G) along an alignment, among which the best is chosen afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from trackrec.llm.training.adapter_module import AdapterModule

CANDIDATES = "candidates"


def candidate_steps(count: int, steps: int) -> list[int]:
    """The optimizer steps after which candidates are saved: evenly spaced, the last one at the end.

    A training of fewer steps than ``count`` has a candidate after each.
    """
    return sorted({-(-steps * number // count) for number in range(1, count + 1)} - {0})


def candidate_folders(directory: Path) -> list[str]:
    """The adapters of an alignment by their folders in its directory, in the order in which they were saved."""
    numbers = sorted(int(path.name) for path in (directory / CANDIDATES).glob("[0-9]*"))
    return [f"{CANDIDATES}/{number}" for number in numbers] or ["adapter"]


class Candidates(Callback):
    """Saves adapters as ``candidates/1``, ``candidates/2`` ... of the stage directory.

    An adapter is saved before the checkpoint of its step is, so a resumed training has those of the steps behind it,
    and writes those of the steps that it repeats once more, with the same bits. A training that is stopped early has
    its end as the last candidate.

    Args:
        directory: of the stage.
        count: how many of them.
    """

    def __init__(self, directory: Path, count: int) -> None:
        self.directory, self.count = directory, count
        self._steps: list[int] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Plan the steps."""
        self._steps = candidate_steps(self.count, int(trainer.estimated_stepping_batches))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where a step is due. With gradient accumulation the batches after it write the same once more."""
        if trainer.global_step in self._steps:
            self._save(trainer, pl_module, self._steps.index(trainer.global_step) + 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end of a training that was stopped between two candidates."""
        if trainer.global_step and trainer.global_step not in self._steps:
            self._save(trainer, pl_module, sum(step < trainer.global_step for step in self._steps) + 1)

    def _save(self, trainer: Trainer, module: LightningModule, number: int) -> None:
        assert isinstance(module, AdapterModule)
        if trainer.is_global_zero:
            module.lm.save_adapter(self.directory / CANDIDATES / str(number), module.adapter)
