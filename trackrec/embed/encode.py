"""RecCoT texts to vectors, each (text, encoder) pair computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from trackrec.tables import TableError, read_table, stable_hash, write_part


@dataclass(frozen=True)
class EmbedSettings:
    """The text encoder.

    Attributes:
        model: a sentence-transformers or BERT-like model, by hub name or directory.
        batch_size: texts per batch.
        normalize: scale vectors to length 1.
    """

    model: str = "bert-base-uncased"
    batch_size: int = 64
    normalize: bool = True


def text_hash(text: str) -> str:
    """Key of a text in the embeddings table."""
    return stable_hash("text", text)


def embed_texts(texts: Sequence[str], settings: EmbedSettings, out_dir: Path, earlier: Path | None) -> dict[str, Any]:
    """Write the embeddings table of these texts.

    Args:
        texts: any texts; equal ones are encoded once.
        settings: the encoder.
        out_dir: the stage directory.
        earlier: an older stage directory whose vectors of the same encoder are taken over.

    Returns:
        Counts for the manifest.

    Raises:
        ValueError: there is no text.
    """
    wanted = {text_hash(text): text for text in texts}
    if not wanted:
        raise ValueError("there is no text to embed: the texts stage wrote none")
    encoder = f"{settings.model}{'' if settings.normalize else ', not normalized'}"
    known = _known(earlier, encoder, set(wanted))
    missing = sorted(key for key in wanted if key not in known)
    if missing:
        vectors = _encode([wanted[key] for key in missing], settings)
        known.update(zip(missing, vectors, strict=True))
    rows = [{"text_hash": key, "encoder": encoder, "vector": known[key]} for key in sorted(wanted)]
    write_part(out_dir, "embeddings", rows)
    return {"texts": len(texts), "distinct": len(wanted), "encoded": len(missing), "dim": len(rows[0]["vector"])}


def _known(earlier: Path | None, encoder: str, wanted: set[str]) -> dict[str, np.ndarray]:
    if earlier is None:
        return {}
    try:
        table = read_table(earlier, "embeddings")
    except TableError:
        return {}
    table = table.filter((pl.col("encoder") == encoder) & pl.col("text_hash").is_in(wanted))
    return {key: np.asarray(vector, np.float16) for key, vector in table.select("text_hash", "vector").iter_rows()}


def _encode(texts: Sequence[str], settings: EmbedSettings) -> np.ndarray:
    """(len(texts), D) float16. A plain BERT gets mean pooling, as sentence-transformers does by default."""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(settings.model, trust_remote_code=False)
    vectors = encoder.encode(
        list(texts), batch_size=settings.batch_size, normalize_embeddings=settings.normalize, show_progress_bar=False
    )
    return np.asarray(vectors, np.float16)


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
