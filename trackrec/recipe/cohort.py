"""Which users take part in the loop, which of their rows score G and which tune V, and on which rows V is evaluated.

G is the generator, V the validator.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from trackrec.recipe.names import TEACHER
from trackrec.recipe.tables import empty_histories, sample_rows, texts_of
from trackrec.runtime.errors import SettingError
from trackrec.storage.atomic import stable_hash, stable_share

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment
    from trackrec.recipe.settings import LoopSettings


Target = tuple[str, str, int]  # sample_id, item_id, label


@dataclass(frozen=True)
class Cohort:
    """The rows of the samples table by their use in the loop.

    Attributes:
        loop_histories: history ids of the users who take part, sorted.
        left_out: the ``loop_histories`` without rewards, sorted: those without an item, and those whose rows for
            rewards lack likes or dislikes, since a reward from one class pays for V's Yes, or for its No. Where
            ``loop.targets`` is 1, any row is enough.
        reward: rows that score draws, likes and dislikes of a history by turns.
        tune: rows from which a round's tuning rows are taken, in the order in which rounds take them.
        warmup: rows from which the warm-up's are taken: ``tune``, or those of ``warmup_users``.
        hold: train rows of all users that none of the three has, on which Rec-Tuning is validated.
        valid: validation rows on which V and G are evaluated each round. With ``LoopSettings.halves_validation`` they
            are of the half of the users that chooses nothing, so that no result is shown on rows that chose it.
        choose: validation rows of the other half, on which a G is chosen; none without ``halves_validation``.
        test: test rows on which V is evaluated by the test command.
    """

    loop_histories: list[str]
    left_out: list[str]
    reward: pl.DataFrame
    tune: pl.DataFrame
    warmup: pl.DataFrame
    hold: pl.DataFrame
    valid: pl.DataFrame
    choose: pl.DataFrame
    test: pl.DataFrame


def select_cohort(samples: pl.DataFrame, settings: LoopSettings, seed: int, empty: Collection[str] = ()) -> Cohort:
    """Pick the cohort.

    Args:
        samples: the samples table.
        settings: how many of each.
        seed: of the hashes.
        empty: histories without an item: nothing is drawn about them, so their rows reward nothing. They tune V.

    Raises:
        SettingError: no train user has a row for both uses, or G is aligned and no history in the loop has rewards from
            both classes, or a G is to be chosen on fewer than two validation users.
    """
    ranked = samples.with_columns(rank=_hashes(samples["sample_id"], "row", seed)).sort("rank")
    train = ranked.filter(pl.col("split") == "train")
    held = held_back(train["sample_id"], settings.hold, seed)
    hold, train = train.filter(held), train.filter(~held)
    described = ~pl.col("history_id").is_in(list(empty))
    able = train.filter((pl.col("use") == "reward") & described)["user_id"].unique().to_list()
    if not able:
        if settings.hold:
            raise SettingError(f"no train row is left to score a text: lower loop.hold, now {settings.hold}.")
        raise SettingError(
            "no train user has both a reward and a tune row: no history has two likes or two dislikes among its train "
            "rows. Use samples.per: user, or more ratings."
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
    reward = _first_of_each_class(reward.filter(described), settings.targets)
    if settings.targets > 1:
        reward = reward.filter(pl.col("label").n_unique().over("history_id") > 1)
    histories = sorted(own["history_id"].unique().to_list())
    if settings.align and not len(reward):
        raise SettingError(
            f"none of the {len(histories)} histories in the loop has both a like and a dislike among its train rows "
            "for rewards: each class is dealt to tune and reward by turns, so it takes two of each. Raise loop.users, "
            "give more ratings, or set samples.threshold nearer to their middle. (With loop.targets: 1, the paper's "
            "reward, any row is enough.)"
        )
    valid, choose = _halves(ranked.filter(pl.col("split") == "valid"), settings.halves_validation, seed)
    return Cohort(
        loop_histories=histories,
        left_out=sorted(set(histories) - set(reward["history_id"].to_list())),
        reward=reward,
        tune=tune.drop("rank"),
        warmup=warmup.drop("rank"),
        hold=hold.drop("rank"),
        valid=_evaluation_rows(valid, settings.eval_samples, settings.eval_per_history, seed),
        choose=_evaluation_rows(choose, settings.eval_samples, settings.eval_per_history, seed),
        test=_evaluation_rows(
            ranked.filter(pl.col("split") == "test"),
            settings.test_samples or settings.eval_samples,
            settings.eval_per_history,
            seed,
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


def cohort_of(exp: Experiment) -> Cohort:
    """The cohort of a run."""
    return exp.once("cohort", lambda: select_cohort(sample_rows(exp), exp.loop, exp.seed, empty_histories(exp)))


def shown_half(exp: Experiment) -> dict[str, str]:
    """For the fingerprint of a stage that reads `Cohort.valid`: whether it is half of the users."""
    return {"validation users": "half"} if exp.loop.halves_validation else {}


def tuning_limit(exp: Experiment) -> int:
    """Most tuning rows of a history in one turn."""
    return int(exp.rec_tune.data.get("samples_per_history", 4))


def tuning_turns(loop: LoopSettings) -> list[int]:
    """The turns whose rows the last V has seen, and the one without texts; 0 is the warm-up. Empty: no V was tuned."""
    turns = list(range(1, loop.rounds + 1)) if loop.rec_tune else []
    if loop.validator_start == "base" and loop.alternate:
        turns = turns[-1:]
    began = loop.warmup and (loop.validator_start == "previous" or not loop.rec_tune)
    return [0, *turns] if began else turns


def tuning_rows_of(exp: Experiment, turns: Sequence[int]) -> pl.DataFrame:
    """The rows of some turns of Rec-Tuning; of a warm-up on the teacher's texts those about which it wrote."""
    cohort = cohort_of(exp)
    warmup = cohort.warmup
    if 0 in turns and exp.loop.warmup_users is not None:
        warmup = warmup.filter(pl.col("history_id").is_in(list(texts_of(exp, TEACHER))))
    parts = [tuning_rows(cohort.tune if turn else warmup, tuning_limit(exp), turn) for turn in turns]
    return pl.concat(parts).unique("sample_id") if parts else cohort.tune.clear()


def held_rows_of(exp: Experiment, history_ids: Collection[str]) -> pl.DataFrame:
    """Rows on which Rec-Tuning on some histories is validated: of each as many held ones as a turn tunes."""
    rows = cohort_of(exp).hold.filter(pl.col("history_id").is_in(list(history_ids)))
    return rows.filter(pl.int_range(pl.len()).over("history_id") < tuning_limit(exp))


def held_back(ids: pl.Series, share: float, seed: int) -> pl.Series:
    """Which of some ids are held back from every training of the loop: about ``share`` of them, by hash."""
    return pl.Series("held", [stable_share("hold", seed, value) < share for value in ids.to_list()], dtype=pl.Boolean)


def learned_samples(exp: Experiment) -> set[str]:
    """Samples whose labels are in V, which was tuned on them, or in G's texts, which were rewarded for them."""
    tuned = tuning_rows_of(exp, tuning_turns(exp.loop))["sample_id"].to_list()
    return {*tuned, *cohort_of(exp).reward["sample_id"].to_list()}


def targets_by_history(rows: pl.DataFrame) -> dict[str, list[Target]]:
    """Rows of the samples table as V's targets, grouped by history, in the order of their ids."""
    grouped: dict[str, list[Target]] = {}
    for history_id, *target in rows.sort("sample_id").select("history_id", "sample_id", "item_id", "label").iter_rows():
        grouped.setdefault(history_id, []).append((target[0], target[1], target[2]))
    return grouped


def _first_of_each_class(rows: pl.DataFrame, limit: int) -> pl.DataFrame:
    """Of each history the first rows by hash, likes and dislikes by turns, until there are ``limit`` or no more."""
    turn = pl.int_range(pl.len()).over("history_id", "label")
    return _first_per_history(rows.with_columns(turn=turn).sort("turn", "rank").drop("turn"), limit)


def _first_per_history(rows: pl.DataFrame, limit: int) -> pl.DataFrame:
    place = pl.int_range(pl.len()).over("history_id")
    return rows.filter(place < limit).drop("rank").sort("sample_id")


def _halves(rows: pl.DataFrame, halves: bool, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows of the users on whom results are shown, and of those on whom a G is chosen: half of them, by hash."""
    if not halves:
        return rows, rows.clear()
    users = sorted(rows["user_id"].unique().to_list(), key=lambda user: stable_hash("choose", seed, user))
    if len(users) < 2:
        raise SettingError(
            f"the validation rows have {len(users)} user(s): half of them would choose a G (loop.candidates, "
            "loop.accept), and the results be shown on the others. Set loop.candidates: 1 and loop.accept: always."
        )
    chooses = pl.col("user_id").is_in(users[: len(users) // 2])
    return rows.filter(~chooses), rows.filter(chooses)


def _evaluation_rows(ranked: pl.DataFrame, most: int, per_history: int, seed: int) -> pl.DataFrame:
    """Up to ``per_history`` rows of histories in hash order, until there are ``most``."""
    rows = _first_per_history(ranked, per_history)
    rows = rows.with_columns(rank=_hashes(rows["history_id"], "evaluate", seed)).sort("rank", "sample_id")
    return rows.head(most).drop("rank").sort("sample_id")


def _hashes(values: pl.Series, salt: str, seed: int) -> pl.Series:
    return pl.Series("rank", [stable_hash(salt, seed, value) for value in values.to_list()], dtype=pl.String)
