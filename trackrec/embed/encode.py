"""Encodes RecCoT texts as vectors; each (text, encoder) pair is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import polars as pl

from trackrec.embed.vectors import text_hash
from trackrec.llm.model_files import model_digest
from trackrec.runtime.errors import SettingError, reason
from trackrec.storage.parts import read_table, write_part
from trackrec.storage.schemas import TableError


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


def embed_texts(texts: Sequence[str], settings: EmbedSettings, out_dir: Path, earlier: Path | None) -> dict[str, Any]:
    """Write the embeddings table of these texts.

    Args:
        texts: any texts; equal ones are encoded once.
        settings: the encoder.
        out_dir: the stage directory.
        earlier: an older stage directory, whose vectors of the same encoder are reused.

    Returns:
        Counts for the manifest.

    Raises:
        SettingError: there is no text.
    """
    wanted = {text_hash(text): text for text in texts}
    if not wanted:
        raise SettingError("there is no text to embed: the texts stage wrote none")
    encoder = encoder_name(settings)
    known = _known(earlier, encoder, set(wanted))
    missing = sorted(key for key in wanted if key not in known)
    in_pieces = 0
    if missing:
        vectors, in_pieces = TextEncoder(settings).encode([wanted[key] for key in missing])
        known.update(zip(missing, vectors, strict=True))
    rows = [{"text_hash": key, "encoder": encoder, "vector": known[key]} for key in sorted(wanted)]
    write_part(out_dir, "embeddings", rows)
    counts = {"texts": len(texts), "distinct": len(wanted), "encoded": len(missing), "dim": len(rows[0]["vector"])}
    return {**counts, "in_pieces": in_pieces} if in_pieces else counts


def _known(earlier: Path | None, encoder: str, wanted: set[str]) -> dict[str, np.ndarray]:
    if earlier is None:
        return {}
    try:
        table = read_table(earlier, "embeddings")
    except TableError:
        return {}
    table = table.filter((pl.col("encoder") == encoder) & pl.col("text_hash").is_in(wanted))
    return {key: np.asarray(vector, np.float16) for key, vector in table.select("text_hash", "vector").iter_rows()}


class TextEncoder:
    """A loaded text encoder. A plain BERT gets mean pooling, as sentence-transformers does by default.

    Args:
        settings: which one.

    Raises:
        SettingError: it can't be loaded without running its code or a pickle of its own, or not at all.
    """

    def __init__(self, settings: EmbedSettings) -> None:
        self.settings, self.name = settings, encoder_name(settings)
        self._encoder = _load(settings.model)

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, int]:
        """(len(texts), D) float16, and how many texts were longer than the encoder's input.

        A longer text is encoded in pieces; its vector is their mean, weighted by their numbers of characters.
        """
        encoder, settings = self._encoder, self.settings
        pieces = [_pieces(encoder, text) for text in texts]
        owner = np.repeat(np.arange(len(texts)), list(map(len, pieces)))
        flat = [piece for text_pieces in pieces for piece in text_pieces]
        vectors = np.asarray(
            encoder.encode(
                flat, batch_size=settings.batch_size, normalize_embeddings=settings.normalize, show_progress_bar=False
            ),
            np.float32,
        )
        weights = np.array([max(1, len(piece)) for piece in flat], np.float32)[:, None]
        sums = np.zeros((len(texts), vectors.shape[1]), np.float32)
        totals = np.zeros((len(texts), 1), np.float32)
        np.add.at(sums, owner, vectors * weights)
        np.add.at(totals, owner, weights)
        means = sums / totals
        is_split = np.array([len(text_pieces) > 1 for text_pieces in pieces], bool)
        if settings.normalize and is_split.any():
            means[is_split] /= np.linalg.norm(means[is_split], axis=1, keepdims=True).clip(1e-12)
        single = ~is_split[owner]
        means[owner[single]] = vectors[single]  # bit-identical to the encoder's output
        return means.astype(np.float16), int(is_split.sum())


def encoder_name(settings: EmbedSettings) -> str:
    """What tells vectors of two encoders apart: the model with the digest of its files, and how texts are encoded."""
    name = " ".join(filter(None, [settings.model, model_digest(settings.model)]))
    return name + ", long texts in pieces" + ("" if settings.normalize else ", not normalized")


def _pieces(encoder: Any, text: str) -> list[str]:
    """The text cut into pieces that fill the encoder's input; one piece if it fits."""
    limit = encoder.max_seq_length
    tokenizer = encoder.tokenizer
    if limit is None or not tokenizer.is_fast:
        return [text]
    room = limit - tokenizer.num_special_tokens_to_add()
    spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False).offset_mapping
    if len(spans) <= room:
        return [text]
    starts = [spans[index][0] for index in range(0, len(spans), room)]
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


def _load(model: str) -> Any:
    """The encoder.

    Raises:
        SettingError: it can't be loaded without running its code or a pickle of its own, or not at all.
    """
    from sentence_transformers import SentenceTransformer

    try:
        encoder = SentenceTransformer(model, trust_remote_code=False)
    except (ValueError, OSError, UnpicklingError) as error:
        raise SettingError(
            f"embed.model {model} can't be loaded ({reason(error)}). It must be a sentence-transformers or BERT-like "
            "model with safetensors weights and no code of its own."
        ) from error
    tokenizer = encoder.tokenizer
    if getattr(tokenizer, "pad_token_id", 0) is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token  # of a language model; what is padded is masked
    return encoder
