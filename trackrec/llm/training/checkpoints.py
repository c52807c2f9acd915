"""Checkpoints of language-model training: small, written atomically between optimizer steps, checked before loading."""

from __future__ import annotations

import csv
import io
import logging
import pickle
import shutil
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from trackrec.runtime.errors import TrackRecError
from trackrec.storage.atomic import write_atomic

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
LAST = "last.ckpt"
CURVE = "metrics.csv"


class CheckpointError(TrackRecError, ValueError):
    """A checkpoint has content that trackrec doesn't write; no code in it was run."""


class WholeFiles(TorchCheckpointIO):
    """Writes checkpoints next to the target and renames them.

    Lightning's default writes to the system's temporary folder. If that is on another file system, the final move is a
    copy, which a crash leaves incomplete (fsspec/implementations/local.py).
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write the complete file or none; no temporary file is left."""
        content = io.BytesIO()  # written by torch to a file, a full disk would give an obscure error
        torch.save(checkpoint, content)
        write_atomic(Path(path), content.getvalue())


def usable_checkpoint(directory: Path, parameters: Collection[str]) -> Path | None:
    """The checkpoint to resume from; None if there is none or it is damaged.

    Args:
        directory: directory of the checkpoints.
        parameters: names of the trainable parameters.

    Raises:
        CheckpointError: it holds more than tensors and plain values, or another adapter. No code in it was run.
    """
    path = directory / LAST
    if not path.exists():
        return None
    if damage := _damage(path):
        log.warning("%s is damaged (%s): training starts from the beginning", path, damage)
        path.unlink()
        return None
    try:
        names = set(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])
    except (pickle.UnpicklingError, KeyError, TypeError) as error:
        unsafe = ", ".join(sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))) or type(error).__name__
        raise CheckpointError(
            f"{path} holds what no training of trackrec writes ({unsafe}), and was not loaded. Delete it, and find out "
            "who put it there: training then starts from the beginning."
        ) from None
    if names != set(parameters):
        raise CheckpointError(f"{path} belongs to another adapter. Delete it: training then starts from the beginning.")
    return path


def _damage(path: Path) -> str:
    """What is wrong with the file, by its length and checksums only; empty if nothing is."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:  # raised on corrupt headers
        return str(error).lower()
    return f"bad checksum of {broken}" if broken else ""


def merge_curves(logs: Path) -> None:
    """Merge ``version_*/metrics.csv`` of a training and its resumes into one ``metrics.csv``, one row per logged step.

    Steps after the last checkpoint of an interrupted attempt are repeated, so the later row of a step wins.
    """
    versions = sorted(logs.glob("version_*"), key=lambda path: int(path.name.rpartition("_")[2]))
    rows: dict[int, dict[str, str]] = {}
    # An earlier attempt may have merged its logs and been interrupted before the stage was done.
    for path in (logs, *versions):
        if not (path / CURVE).exists():
            continue
        with (path / CURVE).open(newline="") as file:
            for row in csv.DictReader(file):
                # A crash may leave an incomplete line, and the values of one step may be spread over several rows.
                if None not in row.values() and row["step"].isdigit():
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
