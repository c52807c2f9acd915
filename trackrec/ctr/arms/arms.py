"""Text arms: what a net may read of the texts, and the placebos it must beat.

Letters: N rows, D text dim. Arms differ in their text matrix and its row index, or in two dense columns; every other
tensor is shared, so the rows, their order and their features are the same in every arm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from trackrec.ctr.features.features import CTRData, TextArm
from trackrec.storage.atomic import stable_hash

# plain: V's log-odds without any text, where texts are used through V's log-odds.
PLACEBOS = ("shuffled", "random", "prompt", "plain")
COMPARATORS = ("untuned", "teacher")
ARMS = ("none", "reccot", *PLACEBOS, *COMPARATORS)
_MADE = ("shuffled", "random")  # from the RecCoT's own vectors or log-odds
_FIELDS = ("reccot", "prompt", *COMPARATORS)
_SCORED = ("reccot", "plain", "shuffled")  # by V, for ctr.text.use: log_odds
_MAX_LOG_ODDS = 6.0  # p_yes of .9975: float32 rounds what lies beyond


@dataclass(frozen=True)
class TextSettings:
    """How texts enter the CTR nets.

    Attributes:
        use: ``dense``: the connector's output beside the dense features (the paper's way). ``query``: it asks history
            and target, as DIN's target does. ``log_odds``: V's log-odds for the target, given the text, as a dense
            feature; V then scores every row in a stage of its own.
        pca_dim: reduce the text vectors to so many principal components of the train rows' texts; null leaves them.
        missing: rows without a text are left out of every arm (``leave_out``), or stay (``keep``) with a learned vector
            in the place of the text.
        coverage: further arms ``reccot@0.5`` and so on, in which only that share of the users keeps its texts; shares
            below 1 need ``missing: keep``.
        score_rows: with ``use: log_odds``, most rows of a history and split that V scores, chosen by hash; the others
            go without. null: all.
    """

    use: Literal["dense", "query", "log_odds"] = "dense"
    pca_dim: int | None = None
    missing: Literal["leave_out", "keep"] = "leave_out"
    coverage: list[float] | None = None
    score_rows: int | None = None

    def __post_init__(self) -> None:
        if self.pca_dim is not None and self.pca_dim < 3:
            raise ValueError(
                f"ctr.text.pca_dim must be at least 3 or null, got {self.pca_dim}: connectors put all vectors on one "
                "scale, which leaves nothing of one number and a sign of two."
            )
        for share in self.coverage or ():
            if not 0 < share < 1:
                raise ValueError(f"ctr.text.coverage: shares must be between 0 and 1, got {share}.")
        if self.score_rows is not None and self.score_rows < 1:
            raise ValueError(f"ctr.text.score_rows must be at least 1 or null, got {self.score_rows}.")
        if self.coverage and self.missing != "keep" and self.use != "log_odds":
            raise ValueError("ctr.text.coverage needs ctr.text.missing: keep, since rows lose their text.")


class MissingEmbeddingError(KeyError):
    """Histories that samples refer to have no vector."""

    def __str__(self) -> str:
        return str(self.args[0])


def source_of(arm: str) -> str:
    """What an arm is made of: ``reccot`` for ``shuffled``, ``random`` and ``reccot@0.5``; any other arm is its own."""
    name = arm.split("@")[0]
    return "reccot" if name in _MADE else name


def scored_arms(arms: Sequence[str]) -> list[str]:
    """The arms for which V is asked, where texts are used through its log-odds: ``random`` is made of ``reccot``'s."""
    sources = {source_of(arm) for arm in arms} | ({"shuffled"} & set(arms))
    return [arm for arm in _SCORED if arm in sources]


def is_arm(arm: str) -> bool:
    """Whether a name is one of `ARMS`, or fields joined end to end, such as ``reccot+prompt``."""
    joined = arm.split("+")
    return arm in ARMS or (len(set(joined)) == len(joined) > 1 and all(part in _FIELDS for part in joined))


def coverage_of(arm: str) -> float:
    """Share of the users that keep their texts: .5 of ``reccot@0.5``."""
    return float(arm.split("@")[1]) if "@" in arm else 1.0


def attach_text(
    data: CTRData, arm: str, history_ids: Sequence[str], vectors: NDArray[np.floating] | Tensor, gaps: bool = False
) -> CTRData:
    """``data`` with the texts of an arm.

    Args:
        data: the features.
        arm: its name; ``none`` is taken by "no text".
        history_ids: (n_texts,) whose text each vector is.
        vectors: (n_texts, D).
        gaps: histories may lack a text; the net learns a vector for them.

    Raises:
        MissingEmbeddingError: a history of some sample has no vector and ``gaps`` is false. None becomes zeros.
        ValueError: a repeated history, a non-finite vector, or shapes that don't fit.
    """
    matrix = torch.as_tensor(vectors).to(torch.float32)
    if arm == "none" or matrix.ndim != 2 or len(matrix) != len(history_ids):
        raise ValueError(f"arm {arm!r}: need a name and one vector per history, got {tuple(matrix.shape)}.")
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
    return _with_arm(data, arm, TextArm(matrix, rows, gaps and bool(missing)))


def used_histories(data: CTRData, split: str | None = None) -> list[int]:
    """Numbers of the histories that the rows of a split, or of all splits, refer to."""
    chosen = data.splits.values() if split is None else [data.splits[split]]
    return torch.cat([tensors["history"] for tensors in chosen]).unique().tolist()


def attach_shuffled(data: CTRData, source: str = "reccot", arm: str = "shuffled", seed: int = 0) -> CTRData:
    """``data`` with an arm that gives each user another user's texts; a user's histories take the next user's in turn.

    Raises:
        ValueError: fewer than two users have texts.
    """
    data.spec_for(source)
    texts = data.arms[source]
    with_text = torch.nonzero(texts.rows >= 0).flatten().tolist()
    rows = texts.rows.clone()
    for history, other in exchange(with_text, [data.history_users[row] for row in with_text], seed).items():
        rows[history] = texts.rows[other]
    return _with_arm(data, arm, replace(texts, rows=rows))


def attach_random(data: CTRData, source: str = "reccot", arm: str = "random", seed: int = 0) -> CTRData:
    """``data`` with an arm of normal noise, one vector per text, with the mean and spread of the source's numbers.

    A net can tell users apart by it, and learn them by heart, as by any vector of the user; it says nothing else.
    """
    data.spec_for(source)
    texts = data.arms[source]
    noise = torch.randn(texts.matrix.shape, generator=torch.Generator().manual_seed(seed))
    matrix = texts.matrix.mean(dim=0) + texts.matrix.std(dim=0, correction=0) * noise
    return _with_arm(data, arm, replace(texts, matrix=matrix))


def keep_share(data: CTRData, source: str, arm: str, share: float, seed: int = 0) -> CTRData:
    """``data`` with an arm in which only a share of the users, chosen by hash, keeps its texts, or its log-odds."""
    data.spec_for(source)
    if source in data.columns:
        owners = {user for ids in data.user_ids.values() for user in ids}
        kept = _chosen(owners, share, seed)
        columns = {
            split: values * torch.tensor([[user in kept] for user in data.user_ids[split]])
            for split, values in data.columns[source].items()
        }
        return replace(data, columns={**data.columns, arm: columns})
    texts = data.arms[source]
    kept = _chosen({data.history_users[row] for row in torch.nonzero(texts.rows >= 0).flatten().tolist()}, share, seed)
    stays = torch.tensor([user in kept for user in data.history_users])
    return _with_arm(data, arm, TextArm(texts.matrix, torch.where(stays, texts.rows, -1), gaps=True))


def _chosen(users: set[str], share: float, seed: int) -> set[str]:
    """A share of the users, by hash; at least one."""
    ranked = sorted(users, key=lambda user: stable_hash("coverage", seed, user))
    return set(ranked[: max(1, round(share * len(ranked)))])


def reduce_texts(data: CTRData, arm: str, dim: int) -> CTRData:
    """``data`` with an arm's vectors replaced by their ``dim`` principal components, fitted on train rows' texts only.

    Each text counts once, however many rows its user has. The scale is one for all components: a whitened net would
    read the least of them as loudly as the first.

    Raises:
        ValueError: there are not so many components.
    """
    texts = data.arms[arm]
    rows = texts.rows[used_histories(data, "train")]
    train = texts.matrix[rows[rows >= 0].unique()].double().numpy()
    if dim > min(train.shape):
        raise ValueError(
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
    matrix = torch.from_numpy((texts.matrix.double().numpy() - mean) @ kept.T / scale).float()
    return _with_arm(data, arm, replace(texts, matrix=matrix))


def log_odds_of(scores: pl.DataFrame, tuned_on: set[str]) -> dict[str, float]:
    """V's log-odds log(p / (1 - p)) by sample from a scores table, p the mean of a sample's draws.

    Args:
        scores: a scores table.
        tuned_on: samples whose labels V or the text learned from. They get no value.
    """
    rows = scores.filter(~pl.col("sample_id").is_in(list(tuned_on)))
    mean = rows.group_by("sample_id", maintain_order=True).agg(pl.col("p_yes").cast(pl.Float64).mean())
    p = mean["p_yes"].to_numpy().clip(1e-6, 1 - 1e-6)
    return dict(zip(mean["sample_id"].to_list(), (np.log(p) - np.log1p(-p)).tolist(), strict=True))


def attach_log_odds(data: CTRData, arm: str, log_odds: Mapping[str, float]) -> CTRData:
    """``data`` with an arm of two more dense columns: the log-odds of a row, scaled, and whether it has any.

    Raises:
        ValueError: a value isn't finite, or no train row has one.
    """
    if not np.isfinite(list(log_odds.values())).all():
        raise ValueError(f"arm {arm!r}: log-odds hold NaN or infinity.")
    columns = {split: log_odds_columns(ids, log_odds) for split, ids in data.sample_ids.items()}
    if not columns["train"][:, 1].any():
        raise ValueError(f"arm {arm!r}: no train row has log-odds, so a net can't learn what they mean.")
    return replace(data, columns={**data.columns, arm: columns})


def log_odds_columns(sample_ids: Sequence[str], log_odds: Mapping[str, float]) -> Tensor:
    """(N, 2): the log-odds of each sample, cut at ±6 and halved, and whether it has any."""
    known = torch.tensor([[log_odds.get(key, 0.0), float(key in log_odds)] for key in sample_ids]).reshape(-1, 2)
    return torch.stack([known[:, 0].clamp(-_MAX_LOG_ODDS, _MAX_LOG_ODDS) / 2.0, known[:, 1]], dim=1)


def attach_shuffled_log_odds(data: CTRData, source: str, arm: str, seed: int = 0) -> CTRData:
    """``data`` with an arm in which the log-odds of a split are exchanged between users, gaps left where they are."""
    columns = {}
    for split, values in data.columns[source].items():
        present = torch.nonzero(values[:, 1]).flatten().tolist()
        columns[split] = values.clone()
        if present:
            exchanged = exchange(present, [data.user_ids[split][row] for row in present], seed)
            columns[split][list(exchanged)] = values[list(exchanged.values())]
    return replace(data, columns={**data.columns, arm: columns})


def attach_random_log_odds(data: CTRData, source: str, arm: str, seed: int = 0) -> CTRData:
    """``data`` with an arm of normal noise in the place of the log-odds, gaps left where they are."""
    generator = torch.Generator().manual_seed(seed)
    columns = {}
    for split, values in data.columns[source].items():
        noise = torch.randn(len(values), generator=generator)
        columns[split] = torch.stack([noise * values[:, 1], values[:, 1]], dim=1)
    return replace(data, columns={**data.columns, arm: columns})


def _with_arm(data: CTRData, name: str, arm: TextArm) -> CTRData:
    return replace(data, arms={**data.arms, name: arm})


def exchange(entries: Sequence[int], owners: Sequence[str], seed: int) -> dict[int, int]:
    """Each entry takes one of another owner: owners form one random cycle (Sattolo 1986), so nobody keeps their own.

    Raises:
        ValueError: fewer than two owners.
    """
    owned: dict[str, list[int]] = {}
    for entry, owner in zip(entries, owners, strict=True):
        owned.setdefault(owner, []).append(entry)
    if len(owned) < 2:
        raise ValueError(f"arm 'shuffled': shuffling needs the texts of two users, there are {len(owned)}.")
    cycle = np.random.default_rng(seed).permutation(sorted(owned)).tolist()
    return {
        entry: owned[other][place % len(owned[other])]
        for user, other in zip(cycle, cycle[1:] + cycle[:1], strict=True)
        for place, entry in enumerate(owned[user])
    }
