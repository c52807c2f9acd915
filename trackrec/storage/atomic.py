"""Atomic file writes, and a hash that is equal across processes and machines."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

_SHARE_DIGITS = 12  # 48 bits: a float holds them exactly


def stable_hash(*parts: object, digits: int = 16) -> str:
    """Hex digest of the parts' text, equal across processes and platforms (unlike ``hash``)."""
    joined = "\x1f".join(str(part) for part in parts)
    return hashlib.blake2b(joined.encode(), digest_size=32).hexdigest()[:digits]


def stable_share(*parts: object) -> float:
    """A number in [0, 1) from the hash of the parts: below ``share`` for about that share of them."""
    return int(stable_hash(*parts, digits=_SHARE_DIGITS), 16) / 16.0**_SHARE_DIGITS


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name, then rename it, so that even a crash of the machine leaves no partial file.

    Raises:
        OSError: for example, the disk is full. An existing file is unchanged then, and no temporary file is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
