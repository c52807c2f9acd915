"""Stages that another run has made already: taken over, not run again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from trackrec.storage.manifest import MANIFEST, content_files, content_hash, find_damage, read_manifest
from trackrec.storage.schemas import TableError

_LOGS = "logs"


def take_over(folder: Path, stage: str, fingerprint: str, work: Path) -> Path | None:
    """Fill ``work`` with a stage that a run under ``folder`` made with the same fingerprint.

    What the stage produced is hard-linked where the file system can, and copied where it can't. Links are safe because
    nothing writes into a finished stage: a stage that is made again is built elsewhere and takes the place of the old
    one. Its training logs are copied; readings of monitors and checkpoints are left behind.

    Args:
        folder: a run directory, or a folder of them.
        stage: its name.
        fingerprint: the one wanted.
        work: a directory that the caller moves into place; whatever it held is dropped.

    Returns:
        The stage directory that was taken, None where no run has such a stage whole.
    """
    for path in sorted([folder / stage / MANIFEST, *folder.glob(f"*/{stage}/{MANIFEST}")]):
        source = path.parent
        try:
            manifest = read_manifest(source)
        except TableError:  # damaged, or of another version: its own run says so
            continue
        if manifest is None or manifest.fingerprint != fingerprint or find_damage(source, manifest):
            continue
        shutil.rmtree(work, ignore_errors=True)
        _link(source, work)
        if content_hash(work) == manifest.content_hash:
            return source
        shutil.rmtree(work)
    return None


def _link(source: Path, work: Path) -> None:
    work.mkdir(parents=True)
    for path in content_files(source):
        target = work / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except OSError:  # another file system, or one without links; what keeps a copy from being made is raised
            shutil.copy2(path, target)
    if (source / _LOGS).is_dir():
        shutil.copytree(source / _LOGS, work / _LOGS, ignore=shutil.ignore_patterns("monitors"))
    shutil.copy2(source / MANIFEST, work / MANIFEST)
