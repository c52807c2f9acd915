"""Which rows V scores for the CTR nets, and what it reads in each arm."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from tiny import frame

from trackrec.ctr.arms.scored_rows import rows_to_score, texts_of_arm
from trackrec.ctr.arms.shuffle import other_texts
from trackrec.recipe.arm_texts import ctr_stages
from trackrec.recipe.cohort import learned_samples, select_cohort, tuning_rows, tuning_turns
from trackrec.recipe.names import LOG_ODDS
from trackrec.recipe.settings import LoopSettings
from trackrec.runtime.errors import SettingError


def samples(users: int = 8, each: int = 12) -> pl.DataFrame:
    """Per user eight train rows, half of them for rewards, and two each of valid and test."""
    splits = ["train"] * (each - 4) + ["valid"] * 2 + ["test"] * 2
    rows = [
        {"sample_id": f"s{u}-{n}", "user_id": f"u{u}", "item_id": f"i{n}", "label": n % 2, "timestamp": n}
        | {"history_id": f"h{u}", "recent_items": [], "recent_ratings": [], "split": splits[n]}
        | {"use": ("reward" if n % 4 < 2 else "tune") if splits[n] == "train" else ""}
        for u in range(users)
        for n in range(each)
    ]
    return frame("samples", rows)


def experiment(**loop: Any) -> Any:
    """Of an experiment, what decides which rows were learned from."""
    settings = LoopSettings(**{"rounds": 2, "targets": 1, **loop})
    cohort = select_cohort(samples(), settings, 0)
    rec_tune = SimpleNamespace(data={"samples_per_history": 1})
    return SimpleNamespace(
        loop=settings, rec_tune=rec_tune, cohort=cohort, once=lambda name, _: {"cohort": cohort}[name]
    )


@pytest.mark.parametrize("start", ["base", "previous"])
@pytest.mark.parametrize("disjoint", [True, False])
def test_rows_that_v_or_the_texts_learned_from_are_known(start: str, disjoint: bool) -> None:
    """Against the turns by hand: the last round's rows (base), or the warm-up's and every round's (previous)."""
    exp = experiment(validator_start=start, disjoint=disjoint)
    turns = [2] if start == "base" else [0, 1, 2]
    assert tuning_turns(exp.loop) == turns
    tuned = {key for turn in turns for key in tuning_rows(exp.cohort.tune, 1, turn)["sample_id"]}
    rewarded = set(exp.cohort.reward["sample_id"])
    assert learned_samples(exp) == tuned | rewarded
    assert len(rewarded) == 8
    train = set(samples().filter(pl.col("split") == "train")["sample_id"])
    assert learned_samples(exp) < train
    without = experiment(validator_start=start, disjoint=disjoint, warmup=False)
    assert tuning_turns(without.loop) == [turn for turn in turns if turn]


def test_the_stage_is_read_where_log_odds_are_used() -> None:
    for use, there in (("dense", False), ("query", False), ("log_odds", True)):
        assert ctr_stages(["none", "reccot"], use) == ("data", "texts", LOG_ODDS if there else "embed")


def test_without_an_arm_that_reads_texts_the_data_is_all() -> None:
    assert ctr_stages(["none"], "dense") == ("data",)


def test_a_limit_takes_rows_of_every_history_and_split_by_hash() -> None:
    given = samples()
    assert rows_to_score(given, None, 0).equals(given)
    found = rows_to_score(given, 2, 0)
    assert set(found.group_by("history_id", "split").len()["len"]) == {2}
    assert found.columns == given.columns
    assert found.equals(rows_to_score(given.reverse(), 2, 0))
    assert not found.equals(rows_to_score(given, 2, 1))
    assert set(found["sample_id"]) < set(rows_to_score(given, 3, 0)["sample_id"])


def test_what_v_reads_in_each_arm() -> None:
    histories = pl.DataFrame({"history_id": ["h0", "h1", "h2", "h3"], "user_id": ["u0", "u0", "u1", "u2"]})
    texts: dict[str, str | None] = {"h0": "a", "h1": "b", "h2": "c", "h3": "d"}
    assert texts_of_arm(texts, histories, "reccot", 0) == texts
    assert texts_of_arm(texts, histories, "plain", 0) == dict.fromkeys(texts)
    for seed in range(5):
        swapped = texts_of_arm(texts, histories, "shuffled", seed)
        owner = dict(zip(texts.values(), histories["user_id"], strict=True))
        assert all(owner[str(swapped[key])] != owner[str(texts[key])] for key in texts)


def test_texts_of_one_user_cannot_be_exchanged() -> None:
    assert other_texts({"h0": "a", "h1": "b"}, {"h0": "u0", "h1": "u1"}, 0) == {"h0": "b", "h1": "a"}
    with pytest.raises(SettingError, match="shuffling needs the texts of two users"):
        other_texts({"h0": "a", "h1": "b"}, {"h0": "u0", "h1": "u0"}, 0)
