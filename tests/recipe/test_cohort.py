"""Who plays, which rows score and which tune: disjoint, by hash, and whatever the order of the table."""

from __future__ import annotations

import polars as pl
import pytest
from tiny import frame

from trackrec.interactions.samples.split import assign_use
from trackrec.recipe.cohort import select_cohort, tuning_rows
from trackrec.recipe.settings import LoopSettings
from trackrec.runtime.errors import SettingError


def make_samples(users: int = 12, rows: int = 20) -> pl.DataFrame:
    """Each user has ``rows`` samples of one history: the first 60 % train, then valid and test by halves.

    The last user has one train row, so nothing that could score.
    """
    table = []
    for u in range(users):
        for i in range(rows):
            split = "train" if i < 0.6 * rows else "valid" if i < 0.8 * rows else "test"
            if u == users - 1 and split == "train" and i:
                continue
            table.append(
                {"sample_id": f"s{u}-{i}", "user_id": f"u{u}", "item_id": f"i{i}", "label": i % 2, "timestamp": i}
                | {"history_id": f"h{u}", "recent_items": [], "recent_ratings": [], "split": split, "use": ""}
            )
    samples = frame("samples", table)
    return samples.with_columns(assign_use(samples, seed=0).alias("use"))


SAMPLES = make_samples()


def counts(rows: pl.DataFrame) -> dict[str, int]:
    return dict(rows.group_by("history_id").len().sort("history_id").iter_rows())


def test_reward_and_tune_rows_have_an_empty_intersection():
    cohort = select_cohort(SAMPLES, LoopSettings(targets=99), seed=0)
    reward, tune = set(cohort.reward["sample_id"]), set(cohort.tune["sample_id"])
    assert reward
    assert tune
    assert not reward & tune
    assert set(cohort.reward["use"]) == {"reward"}
    assert set(cohort.tune["use"]) == {"tune"}
    for turn in range(9):
        assert not reward & set(tuning_rows(cohort.tune, 4, turn)["sample_id"])


def test_the_release_mixes_them_on_request():
    cohort = select_cohort(SAMPLES, LoopSettings(targets=99, disjoint=False), seed=0)
    assert set(cohort.reward["sample_id"]) == set(cohort.tune["sample_id"])


def test_held_rows_score_no_text_and_tune_no_v():
    everything = select_cohort(SAMPLES, LoopSettings(targets=99), seed=0)
    assert not len(everything.hold)
    for disjoint in (True, False):
        cohort = select_cohort(SAMPLES, LoopSettings(targets=99, hold=0.3, disjoint=disjoint), seed=0)
        held = set(cohort.hold["sample_id"])
        assert set(cohort.hold["split"]) == {"train"}
        assert 0.15 < len(held) / len(SAMPLES.filter(pl.col("split") == "train")) < 0.45
        learned = {*cohort.reward["sample_id"], *cohort.tune["sample_id"], *cohort.warmup["sample_id"]}
        assert learned
        assert not held & learned
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"loop.hold must be in \[0, 1\)"):
            LoopSettings(hold=share)


@pytest.mark.parametrize("disjoint", [True, False])
def test_an_empty_history_rewards_nothing(disjoint):
    """h2 and h3 are empty: their users can play no more, unless another history of theirs has a reward row."""
    settings = LoopSettings(targets=99, disjoint=disjoint)
    before = select_cohort(SAMPLES, settings, 0)
    cohort = select_cohort(SAMPLES, settings, 0, empty={"h2", "h3"})
    gone = before.reward["history_id"].is_in(["h2", "h3"])
    assert cohort.reward.equals(before.reward.filter(~gone))
    assert cohort.loop_histories == [key for key in before.loop_histories if key not in ("h2", "h3")]
    assert cohort.valid.equals(before.valid)
    # u2's first rows have no history, those after them have one
    cold = SAMPLES.filter(pl.col("user_id") == "u2", pl.col("timestamp") < 6).with_columns(history_id=pl.lit("h2-cold"))
    both = pl.concat([SAMPLES.filter(~pl.col("sample_id").is_in(cold["sample_id"].implode())), cold])
    cohort = select_cohort(both, settings, 0, empty={"h2-cold"})
    assert {"h2", "h2-cold"} <= set(cohort.loop_histories)
    assert "h2" in cohort.reward["history_id"]
    assert "h2-cold" not in cohort.reward["history_id"]
    assert "h2-cold" in cohort.tune["history_id"]


def test_only_train_rows_reward_and_tune():
    for disjoint in (True, False):
        cohort = select_cohort(SAMPLES, LoopSettings(disjoint=disjoint), seed=0)
        assert set(cohort.reward["split"]) == set(cohort.tune["split"]) == {"train"}
        assert set(cohort.valid["split"]) == {"valid"}
        assert set(cohort.test["split"]) == {"test"}


@pytest.mark.parametrize("targets", [1, 4, 99])
def test_reward_rows_are_capped_per_history(targets):
    """Twelve train rows by turns: six score, six tune."""
    cohort = select_cohort(SAMPLES, LoopSettings(targets=targets), seed=0)
    assert set(counts(cohort.reward).values()) == {min(targets, 6)}
    assert len(cohort.reward) == 11 * min(targets, 6)


def labelled(*histories: tuple[int, int]) -> pl.DataFrame:
    """Train rows of histories with so many likes and so many dislikes, dealt to their use."""
    rows = [
        {"sample_id": f"s{h}-{i}", "user_id": f"u{h}", "item_id": f"i{i}", "label": int(i < likes), "timestamp": i}
        | {"history_id": f"h{h}", "recent_items": [], "recent_ratings": [], "split": "train", "use": ""}
        for h, (likes, dislikes) in enumerate(histories)
        for i in range(likes + dislikes)
    ]
    samples = frame("samples", rows)
    return samples.with_columns(assign_use(samples, seed=0).alias("use"))


def classes(rows: pl.DataFrame) -> dict[str, tuple[int, int]]:
    """Likes and dislikes of each history."""
    counted = rows.group_by("history_id").agg(likes=pl.col("label").sum(), rows=pl.len()).sort("history_id")
    return {key: (likes, rows - likes) for key, likes, rows in counted.iter_rows()}


def test_likes_and_dislikes_score_by_turns():
    """h0 has six and two for rewards, h1 one and five, h2 three and three."""
    samples = labelled((12, 4), (2, 10), (6, 6))
    due = {2: [(1, 1)] * 3, 4: [(2, 2), (1, 3), (2, 2)], 99: [(6, 2), (1, 5), (3, 3)]}
    for targets, found in due.items():
        cohort = select_cohort(samples, LoopSettings(targets=targets), seed=0)
        assert list(classes(cohort.reward).values()) == found
        assert cohort.left_out == []


def test_with_an_odd_limit_the_turn_begins_with_the_first_row_by_hash():
    cohort = select_cohort(labelled(*[(8, 8)] * 40), LoopSettings(targets=3), seed=0)
    firsts = list(classes(cohort.reward).values())
    assert set(firsts) == {(2, 1), (1, 2)}
    assert 10 < firsts.count((2, 1)) < 30


def test_histories_of_one_class_are_left_out_of_the_rewards_and_counted():
    """A class needs two rows to have one for rewards: h1 and h2 have none of one class, h3 only one dislike."""
    samples = labelled((4, 4), (8, 0), (0, 8), (7, 1))
    cohort = select_cohort(samples, LoopSettings(targets=4), seed=0)
    assert cohort.loop_histories == ["h0", "h1", "h2", "h3"]
    assert cohort.left_out == ["h1", "h2", "h3"]
    assert classes(cohort.reward) == {"h0": (2, 2)}
    assert set(cohort.tune["history_id"]) == {"h0", "h1", "h2", "h3"}  # they may tune V
    # where V is tuned on the same rows, a single one is enough
    mixed = select_cohort(samples, LoopSettings(targets=4, disjoint=False), seed=0)
    assert mixed.left_out == ["h1", "h2"]
    assert classes(mixed.reward) == {"h0": (2, 2), "h3": (3, 1)}


def test_one_target_is_the_papers_and_takes_any_row():
    cohort = select_cohort(labelled((4, 4), (8, 0), (0, 8)), LoopSettings(targets=1), seed=0)
    assert cohort.left_out == []
    assert classes(cohort.reward)["h1"] == (1, 0)
    assert classes(cohort.reward)["h2"] == (0, 1)


def test_rewards_of_one_class_everywhere_are_an_error():
    samples = labelled((8, 0), (0, 8))
    with pytest.raises(SettingError, match=r"none of the 2 histories.*a like and a dislike.*samples\.threshold"):
        select_cohort(samples, LoopSettings(), seed=0)
    assert select_cohort(samples, LoopSettings(align=False), seed=0).left_out == ["h0", "h1"]
    assert len(select_cohort(samples, LoopSettings(targets=1), seed=0).reward) == 2


@pytest.mark.parametrize(("share", "due"), [(1.0, 11), (0.5, 6), (0.01, 1)])
def test_a_share_of_the_users_plays(share, due):
    """u11 has nothing that could score, so eleven can play."""
    cohort = select_cohort(SAMPLES, LoopSettings(users=share), seed=0)
    assert len(cohort.loop_histories) == due
    assert "h11" not in cohort.loop_histories
    assert cohort.loop_histories == sorted(cohort.loop_histories)
    assert set(cohort.tune["history_id"]) == set(cohort.reward["history_id"]) == set(cohort.loop_histories)
    if share == 0.5:
        assert cohort.loop_histories != select_cohort(SAMPLES, LoopSettings(users=share), seed=1).loop_histories


def test_a_larger_share_keeps_the_players_of_a_smaller_one():
    few, more = (set(select_cohort(SAMPLES, LoopSettings(users=u), seed=0).loop_histories) for u in (0.3, 0.7))
    assert few < more


def test_the_warm_up_may_see_more_users_than_play():
    few = select_cohort(SAMPLES, LoopSettings(users=0.3), seed=0)
    wide = select_cohort(SAMPLES, LoopSettings(users=0.3, warmup_users=1.0), seed=0)
    assert few.warmup.equals(few.tune)
    assert wide.tune.equals(few.tune)
    assert len(set(wide.warmup["history_id"])) == 11
    assert set(wide.tune["sample_id"]) < set(wide.warmup["sample_id"])
    assert set(wide.warmup["split"]) == {"train"}
    assert not set(wide.warmup["sample_id"]) & set(wide.reward["sample_id"])


def test_the_last_evaluation_may_read_more_rows_than_a_round():
    cohort = select_cohort(SAMPLES, LoopSettings(eval_samples=10, test_samples=20), seed=0)
    assert (len(cohort.valid), len(cohort.test)) == (10, 20)


def test_the_cohort_does_not_depend_on_the_order_of_the_table():
    settings = LoopSettings(users=0.5, targets=2, eval_samples=15)
    one = select_cohort(SAMPLES, settings, seed=3)
    other = select_cohort(SAMPLES.sample(fraction=1.0, shuffle=True, seed=1), settings, seed=3)
    assert one.loop_histories == other.loop_histories
    for name in ("reward", "tune", "warmup", "valid", "test"):
        assert getattr(one, name).equals(getattr(other, name)), name
        assert getattr(one, name).columns == SAMPLES.columns


def test_evaluation_rows_are_capped_in_all_and_per_history():
    cohort = select_cohort(SAMPLES, LoopSettings(eval_samples=10, eval_per_history=3), seed=0)
    for rows in (cohort.valid, cohort.test):
        assert len(rows) == 10
        assert max(counts(rows).values()) == 3
        assert sorted(counts(rows).values()) == [1, 3, 3, 3]  # whole histories, so that few texts are needed
    whole = select_cohort(SAMPLES, LoopSettings(eval_samples=10_000, eval_per_history=99), seed=0)
    assert len(whole.valid) == len(whole.test) == 12 * 4
    assert set(whole.valid["history_id"]) == set(SAMPLES["history_id"])


def test_where_a_g_is_chosen_half_of_the_users_choose_and_the_others_are_shown():
    """Twelve users with validation rows: six and six, by hash; each half is capped as evaluation rows are."""
    plain = select_cohort(SAMPLES, LoopSettings(eval_samples=999), seed=0)
    assert not len(plain.choose)
    for settings in ({"candidates": 2}, {"accept": "better"}):
        cohort = select_cohort(SAMPLES, LoopSettings(eval_samples=999, **settings), seed=0)
        shown, choosing = set(cohort.valid["user_id"]), set(cohort.choose["user_id"])
        assert (len(shown), len(choosing)) == (6, 6)
        assert not shown & choosing
        assert set(cohort.choose["split"]) == {"valid"}
        assert sorted(pl.concat([cohort.valid, cohort.choose])["sample_id"]) == sorted(plain.valid["sample_id"])
        for name in ("reward", "tune", "warmup", "hold", "test"):
            assert getattr(cohort, name).equals(getattr(plain, name)), name
    capped = select_cohort(SAMPLES, LoopSettings(eval_samples=5, eval_per_history=2, candidates=3), seed=0)
    assert (len(capped.valid), len(capped.choose)) == (5, 5)
    assert max(counts(capped.choose).values()) == 2
    assert not set(capped.valid["user_id"]) & set(capped.choose["user_id"])
    # A run without alignment is compared with the whole loop on the same rows.
    aligned = select_cohort(SAMPLES, LoopSettings(eval_samples=999, candidates=2), seed=0)
    unaligned = select_cohort(SAMPLES, LoopSettings(eval_samples=999, candidates=2, align=False), seed=0)
    assert unaligned.valid.equals(aligned.valid)
    assert len(unaligned.valid) < len(plain.valid)
    one = SAMPLES.filter((pl.col("split") != "valid") | (pl.col("user_id") == "u0"))
    with pytest.raises(
        SettingError, match=r"validation rows have 1 user.*loop\.candidates: 1 and loop\.accept: always"
    ):
        select_cohort(one, LoopSettings(candidates=2), seed=0)


# -- turns --------------------------------------------------------------------------------------------------------


def test_turns_take_the_next_rows_round_and_round():
    """Six tuning rows, four a turn: 0-3, 4-5 and 0-1, 2-5, then 0-3 again."""
    tune = select_cohort(SAMPLES, LoopSettings(), seed=0).tune.filter(pl.col("history_id") == "h3")
    order = tune["sample_id"].to_list()
    assert len(order) == 6
    for turn, due in enumerate([[0, 1, 2, 3], [4, 5, 0, 1], [2, 3, 4, 5], [0, 1, 2, 3]]):
        assert tuning_rows(tune, 4, turn)["sample_id"].to_list() == sorted(order[place] for place in due)


def test_three_turns_see_every_row():
    tune = select_cohort(SAMPLES, LoopSettings(), seed=0).tune
    seen = [tuning_rows(tune, 2, turn) for turn in range(3)]
    assert all(set(counts(rows).values()) == {2} for rows in seen)
    assert sorted(pl.concat(seen)["sample_id"]) == sorted(tune["sample_id"])


def test_a_history_with_few_rows_gives_them_every_turn():
    tune = select_cohort(SAMPLES, LoopSettings(), seed=0).tune
    for turn in range(3):
        rows = tuning_rows(tune, 50, turn)
        assert sorted(rows["sample_id"]) == sorted(tune["sample_id"])
        assert rows.columns == SAMPLES.columns


# -- errors -------------------------------------------------------------------------------------------------------


def test_one_row_per_history_cannot_both_score_and_tune():
    with pytest.raises(ValueError, match=r"no train user has both a reward and a tune row.*samples\.per: user"):
        select_cohort(make_samples(users=1), LoopSettings(), seed=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"users": 0.0}, r"loop\.users must be in \(0, 1\], a share of the train users, got 0\.0"),
        ({"users": 30}, r"loop\.users must be in \(0, 1\].*got 30"),
        ({"warmup_users": 1.5}, r"loop\.warmup_users must be in \(0, 1\].*got 1\.5"),
        ({"test_samples": 0}, r"loop\.test_samples must be at least 1"),
        ({"min_reliability": 1.0}, r"loop\.min_reliability must be in \(-1, 1\)"),
        ({"min_reliability": 0.1, "targets": 3}, r"loop\.min_reliability is 0\.1.*Set loop\.targets to 4 or more"),
        ({"rounds": 0}, r"loop\.rounds must be at least 1, got 0"),
        ({"targets": 0}, r"loop\.targets must be at least 1"),
        ({"eval_samples": 0}, r"loop\.eval_samples must be at least 1"),
        ({"eval_per_history": 0}, r"loop\.eval_per_history must be at least 1"),
        ({"shard_histories": 0}, r"loop\.shard_histories must be at least 1"),
    ],
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        LoopSettings(**setting)
