"""The manifest of a finished stage.

``manifest.json`` is written last: a directory without one is not done.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from trackrec.storage.atomic import write_atomic
from trackrec.storage.schemas import TableError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
# Left out of the content hash: they describe the run, not its results.
_NOT_CONTENT = (MANIFEST, "config.yaml", "logs", "checkpoints")


class BrokenManifestError(TableError):
    """A manifest file is invalid: cut off, edited, or something else."""


@dataclass
class Manifest:
    """The record of a finished stage. It is written last: a stage is done if, and only if, it exists.

    ``parts`` holds the size in bytes of every produced file, by its path.
    """

    stage: str
    fingerprint: str
    content_hash: str
    rows: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    threads: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    format_version: int = FORMAT_VERSION


def content_files(stage_dir: Path) -> list[Path]:
    """The files that a stage produced, in a fixed order, without temporary files of a killed `write_atomic`."""
    files = [path for path in stage_dir.rglob("*") if path.is_file() and not path.match(".*.tmp")]
    return sorted(path for path in files if path.relative_to(stage_dir).parts[0] not in _NOT_CONTENT)


def content_hash(stage_dir: Path) -> str:
    """Hash of every produced file's name and bytes. Logs, checkpoints and the manifest don't count."""
    digest = hashlib.blake2b(digest_size=16)
    for path in content_files(stage_dir):
        digest.update(str(path.relative_to(stage_dir)).encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def file_sizes(stage_dir: Path) -> dict[str, int]:
    """Bytes of every produced file, by its path inside the stage."""
    return {path.relative_to(stage_dir).as_posix(): path.stat().st_size for path in content_files(stage_dir)}


def find_damage(stage_dir: Path, manifest: Manifest) -> str:
    """What is missing or has another length than when the stage was done; empty where all is well.

    It compares only names and lengths, which is cheap; `content_hash` detects the rest.
    """
    sizes = file_sizes(stage_dir)
    for name, size in sorted(manifest.parts.items()):
        if name not in sizes:
            return f"{name} is missing"
        if sizes[name] != size:
            return f"{name} has {sizes[name]:,} bytes instead of {size:,}"
    return ""


def write_manifest(stage_dir: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` atomically; call it when everything else in the directory is complete."""
    write_atomic(stage_dir / MANIFEST, json.dumps(asdict(manifest), indent=1, sort_keys=True) + "\n")


def read_manifest(stage_dir: Path) -> Manifest | None:
    """The manifest of a finished stage, or None where the stage isn't done.

    Raises:
        BrokenManifestError: it can't be read.
        TableError: it was written by another format version.
    """
    path = stage_dir / MANIFEST
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text())
        version = values.pop("format_version")
        manifest = Manifest(**values) if version == FORMAT_VERSION else None
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise _broken(path, error) from error
    if manifest is None:
        raise TableError(
            f"{path}: format_version {version}, this trackrec reads {FORMAT_VERSION}. Use another run_dir, or delete "
            f"{stage_dir}: the stage is then made again."
        )
    for entry in fields(Manifest):
        value = getattr(manifest, entry.name)
        kind = _KINDS[str(entry.type).partition("[")[0]]
        if not isinstance(value, kind):
            raise _broken(path, f"{entry.name} is {value!r}")
    return manifest


_KINDS: dict[str, Any] = {"str": str, "int": int, "float": (int, float), "dict": dict}


def _broken(path: Path, why: object) -> BrokenManifestError:
    return BrokenManifestError(f"{path} can't be read ({why})", f"Delete {path.parent} and run again.")
