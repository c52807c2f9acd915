"""Looks up the vectors of texts that the embed stage encoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trackrec.storage.atomic import stable_hash
from trackrec.storage.parts import read_table
from trackrec.storage.schemas import TableError


def text_hash(text: str) -> str:
    """Key of a text in the embeddings table."""
    return stable_hash("text", text)


def vectors_of(stage_dir: Path, texts: Sequence[str]) -> np.ndarray:
    """(len(texts), D) float32 vectors of texts that an embed stage encoded.

    Raises:
        TableError: a text has no vector; never a silent zero.
    """
    table = read_table(stage_dir, "embeddings")
    known = dict(table.select("text_hash", "vector").iter_rows())
    missing = [text for text in texts if text_hash(text) not in known]
    if missing:
        raise TableError(f"table embeddings: {len(missing)} of {len(texts)} texts have no vector in {stage_dir}")
    return np.asarray([known[text_hash(text)] for text in texts], np.float32)
