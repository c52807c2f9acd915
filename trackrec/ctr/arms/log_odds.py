"""The log-odds of the validator (V) as dense columns of an arm, and the placebos made from them.

Letters: N rows. An arm has one tensor (N, 2) per split: the scaled log-odds, and whether the row has any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import torch
from torch import Tensor

from trackrec.ctr.arms.shuffle import Seed, exchange, some_users
from trackrec.ctr.features.features import CTRData
from trackrec.runtime.errors import SettingError

Columns = dict[str, Tensor]
_MAX_LOG_ODDS = 6.0  # p_yes of .9975; float32 rounds values beyond it


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


def log_odds_arm(data: CTRData, arm: str, log_odds: Mapping[str, float]) -> Columns:
    """The columns of an arm.

    Args:
        data: the rows.
        arm: its name, for errors.
        log_odds: by sample.

    Raises:
        ValueError: a value isn't finite.
        SettingError: no train row has a value.
    """
    if not np.isfinite(list(log_odds.values())).all():
        raise ValueError(f"arm {arm!r}: log-odds hold NaN or infinity.")
    columns = {split: log_odds_columns(ids, log_odds) for split, ids in data.sample_ids.items()}
    if not columns["train"][:, 1].any():
        raise SettingError(f"arm {arm!r}: no train row has log-odds, so a net can't learn what they mean.")
    return columns


def log_odds_columns(sample_ids: Sequence[str], log_odds: Mapping[str, float]) -> Tensor:
    """(N, 2): the log-odds of each sample, clipped to ±6 and halved, and whether it has any."""
    known = torch.tensor([[log_odds.get(key, 0.0), float(key in log_odds)] for key in sample_ids]).reshape(-1, 2)
    return torch.stack([known[:, 0].clamp(-_MAX_LOG_ODDS, _MAX_LOG_ODDS) / 2.0, known[:, 1]], dim=1)


def shuffled_log_odds(data: CTRData, columns: Columns, seed: Seed) -> Columns:
    """The log-odds of a split exchanged between users; gaps stay where they are."""
    shuffled = {}
    for split, values in columns.items():
        present = torch.nonzero(values[:, 1]).flatten().tolist()
        shuffled[split] = values.clone()
        if present:
            exchanged = exchange(present, [data.user_ids[split][row] for row in present], seed)
            shuffled[split][list(exchanged)] = values[list(exchanged.values())]
    return shuffled


def random_log_odds(columns: Columns, seed: Seed) -> Columns:
    """Normal noise with the mean and spread of the train rows' log-odds; gaps stay where they are."""
    train = columns["train"]
    spread, mean = torch.std_mean(train[train[:, 1] > 0, 0], correction=0)
    rng = np.random.default_rng(seed)
    noisy = {}
    for split, values in columns.items():
        noise = mean + spread * torch.from_numpy(rng.standard_normal(len(values), np.float32))
        noisy[split] = torch.stack([noise * values[:, 1], values[:, 1]], dim=1)
    return noisy


def log_odds_of_some_users(data: CTRData, columns: Columns, share: float, seed: Seed) -> Columns:
    """Only a share of the users, chosen by hash, keeps its log-odds."""
    kept = some_users({user for ids in data.user_ids.values() for user in ids}, share, seed)
    return {
        split: values * torch.tensor([[user in kept] for user in data.user_ids[split]])
        for split, values in columns.items()
    }
