"""Puts what a stage made into the place of its old result, whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from trackrec.pipeline.stage import StageResult
from trackrec.runtime.versions import threads, versions
from trackrec.storage.manifest import Manifest, content_files, content_hash, file_sizes, write_manifest

PARTIAL = ".partial"


def partial_directory(run_dir: Path, stage: str, suffix: str) -> Path:
    """Where a stage is built before it takes its place."""
    return run_dir / PARTIAL / f"{stage.replace('/', '--')}-{suffix}"


def describe(
    work: Path,
    stage: str,
    fingerprint: str,
    inputs: dict[str, str],
    result: StageResult,
    seed: int,
    seconds: float,
) -> Manifest:
    """Write the manifest of a directory whose stage has ended.

    Args:
        work: the directory.
        stage: its name.
        fingerprint: what the result depends on.
        inputs: name -> content hash of each stage it read.
        result: what the body returned.
        seed: of the run.
        seconds: how long it took.
    """
    import pyarrow.parquet as pq

    rows: dict[str, int] = {}
    for path in content_files(work):
        if path.suffix == ".parquet":
            rows[path.parent.name] = rows.get(path.parent.name, 0) + pq.read_metadata(path).num_rows
    manifest = Manifest(
        stage=stage,
        fingerprint=fingerprint,
        content_hash=content_hash(work),
        parts=file_sizes(work),
        rows=rows,
        inputs=inputs,
        notes=result.notes,
        versions=versions(),
        seed=seed,
        threads=threads(),
        seconds=round(seconds, 3),
        peak_memory_bytes=result.peak_memory,
    )
    write_manifest(work, manifest)
    return manifest


def put_in_place(work: Path, run_dir: Path, stage: str) -> None:
    """Move a whole directory to where the stage lives, and drop what older tries left half done."""
    final, old = run_dir / stage, work.with_name(f"{work.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        final.rename(old)
    work.rename(final)
    # Not before: a crash in between would cost the training.
    shutil.rmtree(final / "checkpoints", ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    for left in partial_directory(run_dir, stage, "").parent.glob(f"{stage.replace('/', '--')}-*"):
        shutil.rmtree(left, ignore_errors=True)


def describe_notes(notes: dict[str, Any]) -> str:
    """The single values among a stage's notes, for its line in the terminal."""
    return ", ".join(f"{key} {_short(value)}" for key, value in notes.items() if not isinstance(value, dict | list))


def _short(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
