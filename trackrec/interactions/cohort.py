"""Who plays in the loop, which of their rows score G and which tune V, and on which rows V is evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import polars as pl

from trackrec.storage.atomic import stable_hash


@dataclass(frozen=True)
class LoopSettings:
    """The loop: how many rounds, who plays, which rows score and tune. Every choice of rows is by hash.

    Attributes:
        rounds: T of the paper.
        users: share of the users with train rows whose histories take part.
        targets: most reward rows per history that score a draw (the paper uses 1).
        disjoint: V never tunes on a row that it later scores; false mixes them, as the public release does.
        warmup: tune V once on the distilled G's greedy texts before it scores round 1.
        warmup_users: share of the users whose rows warm V up, with the teacher's texts instead of greedy ones, so
            that V sees more users than play; null keeps to those who play and to the distilled G's texts.
        validator_start: each round's V starts from the plain ``base`` (paper) or from the ``previous`` V.
        validator_lr: peak learning rate of V in the rounds; null is ``rec_tune.model.lr``, that of the warm-up and of
            the V without texts. A V that goes on from the ``previous`` one loses at the warm-up's rate what it learnt
            there (docs/benchmarks.md).
        texts: in the end ``all`` histories get a greedy RecCoT, or only the ``played`` and evaluated ones.
        eval_samples: most validation rows on which V is evaluated each round.
        test_samples: most test rows on which V is evaluated in the end; null is as many as ``eval_samples``.
        eval_per_history: most of those rows per history.
        shard_histories: histories per part of an inference stage; a cut-off run loses at most one part.
        distill: G starts from SFT on the teacher's texts; false lets the plain base write round 1's.
        wrong_teacher: every history gets what the teacher wrote about another user.
        align: S-DPO moves G each round; false keeps the G that starts.
        rec_tune: Rec-Tuning moves V each round; false keeps the V that warmed up, or the base without a warm-up.
        alternate: the rounds take turns; false lets the first G write and the first V score the draws of all rounds,
            then aligns G once on all their sets and tunes V once on all their rows.
    """

    rounds: int = 3
    users: float = 1.0
    targets: int = 4
    disjoint: bool = True
    warmup: bool = True
    warmup_users: float | None = None
    validator_start: Literal["base", "previous"] = "base"
    validator_lr: float | None = None
    texts: Literal["all", "played"] = "all"
    eval_samples: int = 2000
    test_samples: int | None = None
    eval_per_history: int = 8
    shard_histories: int = 64
    distill: bool = True
    wrong_teacher: bool = False
    align: bool = True
    rec_tune: bool = True
    alternate: bool = True

    def __post_init__(self) -> None:
        for key in ("users", "warmup_users"):
            share = getattr(self, key)
            if share is not None and not 0 < share <= 1:
                raise ValueError(f"loop.{key} must be in (0, 1], a share of the train users, got {share}.")
        if self.validator_lr is not None and self.validator_lr <= 0:
            raise ValueError(
                f"loop.validator_lr must be above 0, or null for rec_tune.model.lr, got {self.validator_lr}."
            )
        for key in ("rounds", "targets", "eval_samples", "test_samples", "eval_per_history", "shard_histories"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"loop.{key} must be at least 1, got {value}.")
        if not (self.align or self.rec_tune):
            raise ValueError(
                "loop.align and loop.rec_tune are both false: the rounds would change nothing. Leave one of them true."
            )


@dataclass(frozen=True)
class Cohort:
    """The rows of the samples table by the part they play.

    Attributes:
        loop_histories: history ids of the users that play, sorted.
        reward: rows that score draws.
        tune: rows from which a round's tuning rows are taken, in the order in which rounds take them.
        warmup: rows from which the warm-up's are taken: ``tune``, or those of ``warmup_users``.
        valid: validation rows on which V is evaluated each round.
        test: test rows on which V is evaluated by the test command.
    """

    loop_histories: list[str]
    reward: pl.DataFrame
    tune: pl.DataFrame
    warmup: pl.DataFrame
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

    def first(share: float) -> pl.DataFrame:
        chosen = by_hash[: max(1, round(share * len(by_hash)))]
        return train.filter(pl.col("user_id").is_in(set(chosen)))

    own = first(settings.users)
    warmup = own if settings.warmup_users is None else first(settings.warmup_users)
    reward, tune = own, own
    if settings.disjoint:
        reward = own.filter(pl.col("use") == "reward")
        tune, warmup = (rows.filter(pl.col("use") == "tune") for rows in (tune, warmup))
    return Cohort(
        loop_histories=sorted(own["history_id"].unique().to_list()),
        reward=_first_per_history(reward, settings.targets),
        tune=tune.drop("rank"),
        warmup=warmup.drop("rank"),
        valid=_evaluation_rows(ranked, "valid", settings.eval_samples, settings.eval_per_history, seed),
        test=_evaluation_rows(
            ranked, "test", settings.test_samples or settings.eval_samples, settings.eval_per_history, seed
        ),
    )


def tuning_rows(tune: pl.DataFrame, per_history: int, turn: int) -> pl.DataFrame:
    """The rows of one tuning: each turn takes the next ``per_history`` rows of a history, round and round.

    Args:
        tune: `Cohort.tune`, or `Cohort.warmup` for turn 0.
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


def _evaluation_rows(ranked: pl.DataFrame, split: str, most: int, per_history: int, seed: int) -> pl.DataFrame:
    """Up to ``per_history`` rows of histories in hash order, until there are ``most``."""
    rows = _first_per_history(ranked.filter(pl.col("split") == split), per_history)
    rows = rows.with_columns(rank=_hashes(rows["history_id"], "evaluate", seed)).sort("rank", "sample_id")
    return rows.head(most).drop("rank").sort("sample_id")


def _hashes(values: pl.Series, salt: str, seed: int) -> pl.Series:
    return pl.Series("rank", [stable_hash(salt, seed, value) for value in values.to_list()], dtype=pl.String)
