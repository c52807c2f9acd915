"""Text vectors of an arm, and the placebos made from them.

Letters: N rows, D text dim. Arms differ only in their text matrix and its row index; every other tensor is shared, so
the rows, their order and their features are the same in every arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trackrec.ctr.arms.shuffle import Seed, exchange, some_users
from trackrec.ctr.features.features import CTRData, TextArm
from trackrec.runtime.errors import SettingError, TrackRecError


class MissingEmbeddingError(TrackRecError, KeyError):
    """Histories that samples refer to have no vector."""


def text_arm(
    data: CTRData, arm: str, history_ids: Sequence[str], vectors: NDArray[np.floating] | Tensor, gaps: bool = False
) -> TextArm:
    """The texts of an arm.

    Args:
        data: the rows, which refer to histories.
        arm: its name, for errors.
        history_ids: (n_texts,) the history of each vector.
        vectors: (n_texts, D).
        gaps: histories may lack a text; the net learns a vector for them.

    Raises:
        MissingEmbeddingError: a history of some sample has no vector and ``gaps`` is false. A missing vector is never
            replaced by zeros.
        ValueError: a repeated history, a non-finite vector, or shapes that don't fit.
    """
    matrix = torch.as_tensor(vectors).to(torch.float32)
    if matrix.ndim != 2 or len(matrix) != len(history_ids):
        raise ValueError(f"arm {arm!r}: need one vector per history, got {tuple(matrix.shape)}.")
    position = {history: row for row, history in enumerate(history_ids)}
    if len(position) != len(history_ids):
        raise ValueError(f"arm {arm!r}: {len(history_ids) - len(position)} histories have more than one vector.")
    if not torch.isfinite(matrix).all():
        raise ValueError(f"arm {arm!r}: {int((~torch.isfinite(matrix)).any(1).sum())} vectors hold NaN or infinity.")
    used = used_histories(data)
    missing = [data.history_ids[row] for row in used if data.history_ids[row] not in position]
    if missing and not gaps:
        raise MissingEmbeddingError(
            f"arm {arm!r}: {len(missing)} of {len(used)} histories have no embedding, first {missing[:3]}. "
            "Run the embed stage for them."
        )
    # -1 marks histories without a text: ones that no sample uses, or gaps.
    rows = torch.tensor([position.get(history, -1) for history in data.history_ids], dtype=torch.int64)
    return TextArm(matrix, rows, gaps and bool(missing))


def used_histories(data: CTRData, split: str | None = None) -> list[int]:
    """Indices of the histories that the rows of a split, or of all splits, refer to."""
    chosen = data.splits.values() if split is None else [data.splits[split]]
    histories: list[int] = torch.cat([tensors["history"] for tensors in chosen]).unique().tolist()
    return histories


def shuffled_texts(data: CTRData, texts: TextArm, seed: Seed) -> TextArm:
    """Each user gets another user's texts; a user's histories take the other user's in turn.

    Raises:
        SettingError: fewer than two users have texts.
    """
    with_text = torch.nonzero(texts.rows >= 0).flatten().tolist()
    rows = texts.rows.clone()
    for history, other in exchange(with_text, [data.history_users[row] for row in with_text], seed).items():
        rows[history] = texts.rows[other]
    return replace(texts, rows=rows)


def random_texts(texts: TextArm, seed: Seed) -> TextArm:
    """Normal vectors, one per text, with the mean and the covariance of the distinct texts' vectors.

    A net can use them to tell users apart and to memorise them, as any vector of the user; they hold nothing else.
    """
    distinct = np.unique(texts.matrix.numpy(), axis=0).astype(np.float64)
    mean = distinct.mean(axis=0)
    # Q R of the centred vectors: R'R is their scatter, of whatever rank, in at most D rows.
    root = np.linalg.qr(distinct - mean, mode="r") / max(len(distinct) - 1, 1) ** 0.5
    root *= np.where(root.diagonal() < 0, -1.0, 1.0)[:, None]  # signs differ between machines
    noise = np.random.default_rng(seed).standard_normal((len(texts.matrix), len(root)))
    return replace(texts, matrix=torch.from_numpy((mean + noise @ root).astype(np.float32)))


def texts_of_some_users(data: CTRData, texts: TextArm, share: float, seed: Seed) -> TextArm:
    """Only a share of the users, chosen by hash, keeps its texts."""
    owners = {data.history_users[row] for row in torch.nonzero(texts.rows >= 0).flatten().tolist()}
    kept = some_users(owners, share, seed)
    stays = torch.tensor([user in kept for user in data.history_users])
    return TextArm(texts.matrix, torch.where(stays, texts.rows, -1), gaps=True)


def only_where(data: CTRData, texts: TextArm, histories: Sequence[str]) -> TextArm:
    """The texts of the given histories only.

    A placebo must lack a text where the RecCoT lacks one. Otherwise a difference could come from the coverage.
    """
    kept = set(histories)
    rows = torch.where(torch.tensor([history in kept for history in data.history_ids]), texts.rows, -1)
    used = torch.cat([split["history"] for split in data.splits.values()]).unique()
    return replace(texts, rows=rows, gaps=bool((rows[used] < 0).any()))


class Projection(NamedTuple):
    """The principal components of text vectors: x -> (x - mean) @ directions / scale.

    Attributes:
        mean: (D,) float64.
        directions: (D, dim) float64.
        scale: one number for all components.
    """

    mean: NDArray[np.float64]
    directions: NDArray[np.float64]
    scale: float

    def __call__(self, vectors: NDArray[Any]) -> NDArray[np.float32]:
        """(n, D) -> (n, dim)."""
        reduced = (vectors.astype(np.float64) - self.mean) @ self.directions / self.scale
        return reduced.astype(np.float32)


def principal_components(data: CTRData, texts: TextArm, dim: int, arm: str) -> TextArm:
    """Vectors replaced by their ``dim`` principal components; see `principal_projection`."""
    reduced = principal_projection(data, texts, dim, arm)(texts.matrix.numpy())
    return replace(texts, matrix=torch.from_numpy(reduced))


def principal_projection(data: CTRData, texts: TextArm, dim: int, arm: str) -> Projection:
    """The first ``dim`` principal components, fitted on train rows' texts only.

    Each text counts once, however many rows its user has. All components share one scale: after whitening the last
    component would weigh as much as the first.

    Raises:
        SettingError: there are fewer than ``dim`` components.
    """
    rows = texts.rows[used_histories(data, "train")]
    train = texts.matrix[rows[rows >= 0].unique()].double().numpy()
    if dim > min(train.shape):
        raise SettingError(
            f"ctr.text.pca_dim must be at most {min(train.shape)} ({train.shape[0]} train texts of {train.shape[1]} "
            f"numbers in arm {arm!r}), got {dim}."
        )
    mean = train.mean(axis=0)
    _, spread, directions = np.linalg.svd(train - mean, full_matrices=False)
    # A direction's sign is arbitrary and differs between machines: its largest number is positive.
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
    kept = (directions * np.where(largest < 0, -1.0, 1.0))[:dim]
    variance = (spread[:dim] ** 2).sum() / max(len(train) - 1, 1)
    scale = np.sqrt(variance / dim) or 1.0  # equal texts have no variance
    return Projection(mean, kept.T, float(scale))
