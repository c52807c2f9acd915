"""Checkpoints of the language-model trainings: small, whole or absent, made between optimizer steps, read with care."""

from __future__ import annotations

import csv
import io
import logging
import pickle
import shutil
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from trackrec.runtime.errors import TrackRecError, reason
from trackrec.storage.atomic import write_atomic

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
LAST = "last.ckpt"
CURVE = "metrics.csv"


class CheckpointError(TrackRecError, ValueError):
    """A checkpoint holds what no training of trackrec writes; nothing of it was run."""


class WholeFiles(TorchCheckpointIO):
    """Writes beside the target, then renames.

    Lightning's own goes through the system's temporary folder, and where that is another file system the last move is
    a copy, which a crash cuts in two (fsspec/implementations/local.py).
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Whole or absent, and no temporary file either way."""
        content = io.BytesIO()  # torch's own writer would turn a full disk into a riddle
        torch.save(checkpoint, content)
        write_atomic(Path(path), content.getvalue())


class StepCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` after every n-th optimizer step.

    Lightning's `ModelCheckpoint` forgets over a resume which step it saved last, and would save again on the next
    batch: in the middle of an accumulation, whose gradients no checkpoint holds.

    Args:
        directory: where to.
        every: optimizer steps from one to the next.
    """

    def __init__(self, directory: Path, every: int) -> None:
        self.path, self.every, self._saved = directory / LAST, every, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What the training goes on from is saved already."""
        self._saved = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save right after the step, before the next batch adds a gradient."""
        if trainer.global_step != self._saved and trainer.global_step % self.every == 0:
            self._saved = trainer.global_step
            trainer.save_checkpoint(self.path, weights_only=False)


def usable_checkpoint(directory: Path, parameters: Collection[str]) -> Path | None:
    """The checkpoint to go on from; None where there is none, or none that can be read.

    Args:
        directory: of the checkpoints.
        parameters: names of what trains.

    Raises:
        CheckpointError: it holds more than tensors and plain values, or another adapter. Nothing of it was run.
    """
    path = directory / LAST
    if not path.exists():
        return None
    if trouble := _damage(path):
        log.warning("%s is damaged (%s): the training starts anew", path, trouble)
        path.unlink()
        return None
    try:
        names = set(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])
    except (pickle.UnpicklingError, KeyError, TypeError) as error:
        why = reason(error).partition(" This file can still be loaded")[0]
        raise CheckpointError(
            f"{path} holds what no training of trackrec writes, and was not loaded ({why[:160]}). Delete it, and "
            "find out who put it there: the training then starts anew."
        ) from None
    if names != set(parameters):
        raise CheckpointError(f"{path} belongs to another adapter. Delete it: the training then starts anew.")
    return path


def _damage(path: Path) -> str:
    """What is wrong with the file, by its length and its checksums alone; empty where nothing is."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:  # of headers full of noise
        return str(error).lower()
    return f"bad checksum of {broken}" if broken else ""


def merge_curves(logs: Path) -> None:
    """``version_*/metrics.csv`` of a training and its resumptions as one ``metrics.csv``, a row per logged step.

    What a cut-off try logged after its last checkpoint was made again, so the later row of a step stands.
    """
    versions = sorted(logs.glob("version_*"), key=lambda path: int(path.name.rpartition("_")[2]))
    rows: dict[int, dict[str, str]] = {}
    # An earlier try may have merged what it had, and been cut off before the stage was done.
    for path in (logs, *versions):
        for row in _rows(path / CURVE):
            # Values of one step may stand in several rows.
            rows.setdefault(int(row["step"]), {}).update({name: value for name, value in row.items() if value})
    if rows:
        names = sorted({name for row in rows.values() for name in row})
        text = io.StringIO()
        writer = csv.DictWriter(text, names, restval="")
        writer.writeheader()
        writer.writerows(rows[step] for step in sorted(rows))
        write_atomic(logs / CURVE, text.getvalue())
    for path in versions:
        shutil.rmtree(path)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a logged curve; a line that a crash tore is passed over."""
    if path.exists():
        with path.open(newline="") as file:
            yield from (row for row in csv.DictReader(file) if None not in row.values() and row["step"].isdigit())
