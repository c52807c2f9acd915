"""The texts of a bundle as vectors: those of the users, how a net reads one, and those of the items.

Letters: I items, D text dim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trackrec.ctr.arms.arm import Arm
from trackrec.ctr.arms.texts import principal_projection, text_arm
from trackrec.ctr.features.features import CTRData
from trackrec.serving.bundle import ITEM_VECTORS, PROJECTION

Vectors = Mapping[str, NDArray[np.floating[Any]]]
Embed = Callable[[list[str]], NDArray[np.floating[Any]]]


def text_vectors(
    data: CTRData, arm: Arm, reccots: Vectors | None, pca_dim: int | None, encoder: str, work: Path
) -> tuple[Vectors, dict[str, Any] | None]:
    """The vector of each history, and how a net reads one: as the encoder gave it where a newer text may come.

    Args:
        data: the features, with the arm.
        arm: whose texts.
        reccots: history -> vector of the RecCoT.
        pca_dim: of ``ctr.text``; the projection is written to ``projection.npz``.
        encoder: what made the vectors.
        work: the bundle's folder.
    """
    if arm.name not in data.arms:
        return {}, None
    texts = data.arms[arm.name]
    dim = int(texts.matrix.shape[1])
    facts = {"dim": dim, "vector_dim": dim, "encoder": encoder, "live": False, "projected": False}
    if arm.texts != ("reccot",) or arm.is_drawn or not reccots:
        rows, matrix = texts.rows.tolist(), texts.matrix.numpy()
        return {key: matrix[row] for key, row in zip(data.history_ids, rows, strict=True) if row >= 0}, facts
    ids = sorted(reccots)
    if pca_dim is not None:
        given = text_arm(data, arm.name, ids, np.stack([reccots[key] for key in ids]), gaps=True)
        reads = principal_projection(data, given, pca_dim, arm.name)
        np.savez(work / PROJECTION, mean=reads.mean, directions=reads.directions, scale=np.float64(reads.scale))
    width = len(reccots[ids[0]])
    return reccots, {**facts, "vector_dim": width, "live": True, "projected": pca_dim is not None}


def write_item_vectors(items: pl.DataFrame, embed: Embed, work: Path) -> None:
    """Write the vectors of what is known of each item, of length 1: (I, D) float16.

    Args:
        items: the table.
        embed: texts -> their vectors.
        work: the bundle's folder.
    """
    year = pl.format(" ({})", "year").fill_null("")
    attributes = pl.format(": {}", pl.col("attributes").list.join(", ")).fill_null("")
    vectors = embed(items.select(pl.concat_str("title", year, attributes)).to_series().to_list()).astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    np.save(work / ITEM_VECTORS, (vectors / lengths).astype(np.float16))
