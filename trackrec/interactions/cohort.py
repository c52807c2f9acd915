"""Who plays in the loop, which of their rows score G and which tune V, and on which rows V is evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import polars as pl

from trackrec.tables import stable_hash


@dataclass(frozen=True)
class LoopSettings:
    """The loop: how many rounds, who plays, which rows score and tune. Every choice of rows is by hash.

    Attributes:
        rounds: T of the paper.
        users: share of the users with train rows whose histories take part.
        targets: most reward rows per history that score a draw (the paper uses 1).
        disjoint: V never tunes on a row that it later scores; false mixes them, as the public release does.
        warmup: tune V once on the distilled G's greedy texts before it scores round 1.
        validator_start: each round's V starts from the plain ``base`` (paper) or from the ``previous`` V.
        texts: in the end ``all`` histories get a greedy RecCoT, or only the ``played`` and evaluated ones.
        eval_samples: most rows of each held-out split on which V is evaluated.
        eval_per_history: most of those rows per history.
        shard_histories: histories per part of an inference stage; a cut-off run loses at most one part.
    """

    rounds: int = 3
    users: float = 1.0
    targets: int = 4
    disjoint: bool = True
    warmup: bool = True
    validator_start: Literal["base", "previous"] = "base"
    texts: Literal["all", "played"] = "all"
    eval_samples: int = 2000
    eval_per_history: int = 8
    shard_histories: int = 64

    def __post_init__(self) -> None:
        if not 0 < self.users <= 1:
            raise ValueError(f"loop.users must be in (0, 1], a share of the train users, got {self.users}.")
        for key in ("rounds", "targets", "eval_samples", "eval_per_history", "shard_histories"):
            if getattr(self, key) < 1:
                raise ValueError(f"loop.{key} must be at least 1, got {getattr(self, key)}.")


@dataclass(frozen=True)
class Cohort:
    """The rows of the samples table by the part they play.

    Attributes:
        loop_histories: history ids of the users that play, sorted.
        reward: rows that score draws.
        tune: rows from which a round's tuning rows are taken, in the order in which rounds take them.
        valid: validation rows on which V is evaluated each round.
        test: test rows on which V is evaluated by the test command.
    """

    loop_histories: list[str]
    reward: pl.DataFrame
    tune: pl.DataFrame
    valid: pl.DataFrame
    test: pl.DataFrame


def select_cohort(samples: pl.DataFrame, settings: LoopSettings, seed: int) -> Cohort:
    """Pick the cohort.

    Args:
        samples: the samples table.
        settings: how many of each.
        seed: of the hashes.

    Raises:
        ValueError: no train user has a row for both uses.
    """
    ranked = samples.with_columns(rank=_hashes(samples["sample_id"], "row", seed)).sort("rank")
    train = ranked.filter(pl.col("split") == "train")
    able = train.filter(pl.col("use") == "reward")["user_id"].unique().to_list()
    if not able:
        raise ValueError(
            "no train user has both a reward and a tune row: every history has a single train row. "
            "Use samples.per: user, or more ratings."
        )
    by_hash = sorted(able, key=lambda user: stable_hash("user", seed, user))
    playing = set(by_hash[: max(1, round(settings.users * len(by_hash)))])
    own = train.filter(pl.col("user_id").is_in(playing))
    reward, tune = own, own
    if settings.disjoint:
        reward, tune = own.filter(pl.col("use") == "reward"), own.filter(pl.col("use") == "tune")
    return Cohort(
        loop_histories=sorted(own["history_id"].unique().to_list()),
        reward=_first_per_history(reward, settings.targets),
        tune=tune.drop("rank"),
        valid=_evaluation_rows(ranked, "valid", settings, seed),
        test=_evaluation_rows(ranked, "test", settings, seed),
    )


def tuning_rows(tune: pl.DataFrame, per_history: int, turn: int) -> pl.DataFrame:
    """The rows of one tuning: each turn takes the next ``per_history`` rows of a history, round and round.

    Args:
        tune: `Cohort.tune`.
        per_history: most rows per history.
        turn: 0 for the warm-up, then the round.
    """
    numbered = tune.with_columns(
        place=pl.int_range(pl.len()).over("history_id"), count=pl.len().over("history_id").cast(pl.Int64)
    )
    offset = (pl.col("place") - turn * per_history) % pl.col("count")
    return numbered.filter(offset < per_history).drop("place", "count").sort("sample_id")


def _first_per_history(rows: pl.DataFrame, limit: int) -> pl.DataFrame:
    place = pl.int_range(pl.len()).over("history_id")
    return rows.filter(place < limit).drop("rank").sort("sample_id")


def _evaluation_rows(ranked: pl.DataFrame, split: str, settings: LoopSettings, seed: int) -> pl.DataFrame:
    """Up to ``eval_per_history`` rows of histories in hash order, until ``eval_samples`` are reached."""
    rows = _first_per_history(ranked.filter(pl.col("split") == split), settings.eval_per_history)
    rows = rows.with_columns(rank=_hashes(rows["history_id"], "evaluate", seed)).sort("rank", "sample_id")
    return rows.head(settings.eval_samples).drop("rank").sort("sample_id")


def _hashes(values: pl.Series, salt: str, seed: int) -> pl.Series:
    return pl.Series("rank", [stable_hash(salt, seed, value) for value in values.to_list()], dtype=pl.String)
