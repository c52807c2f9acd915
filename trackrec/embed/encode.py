"""RecCoT texts to vectors, each (text, encoder) pair computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import polars as pl

from trackrec.error_text import reason
from trackrec.model_files import model_digest
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
    encoder = " ".join(filter(None, [settings.model, model_digest(settings.model)]))
    encoder += "" if settings.normalize else ", not normalized"
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
    encoder = _load(settings.model)
    vectors = encoder.encode(
        list(texts), batch_size=settings.batch_size, normalize_embeddings=settings.normalize, show_progress_bar=False
    )
    return np.asarray(vectors, np.float16)


def _load(model: str) -> Any:
    """The encoder.

    Raises:
        ValueError: it can't be loaded, or not without running code or a pickle of its own.
    """
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(model, trust_remote_code=False)
    except (ValueError, OSError, UnpicklingError) as error:
        raise ValueError(
            f"embed.model {model} can't be loaded ({reason(error)}). It must be a sentence-transformers or BERT-like "
            "model with safetensors weights and no code of its own."
        ) from error


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
