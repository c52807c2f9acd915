"""From V's scores to preference sets: what is rewarded, merged, dropped, rejected and counted."""

from __future__ import annotations

import math
from collections import Counter

import polars as pl
import pytest
from tiny import frame, reccot_row

from trackrec.align.preferences import (
    PreferenceSettings,
    ScoredDraw,
    build_preferences,
    collect_draws,
    draw_reward,
)
from trackrec.runtime.errors import DivergedError


def scored(*rewards: float, cut: tuple[int, ...] = (), same: tuple[tuple[int, int], ...] = ()) -> list[ScoredDraw]:
    """Draws 0, 1, ... with these rewards; ``cut`` didn't finish; ``same`` pairs have the tokens of the first."""
    tokens = {place: (100 + place, 1) for place in range(len(rewards))}
    tokens |= {second: tokens[first] for first, second in same}
    return [ScoredDraw(place, tokens[place], place not in cut, reward) for place, reward in enumerate(rewards)]


def build(draws: dict[str, list[ScoredDraw]], seed: int = 0, round_: int = 2, **settings):
    return build_preferences(draws, PreferenceSettings(**settings), "g1", round_, seed)


# -- the reward ---------------------------------------------------------------------------------------------------


def test_the_reward_is_the_mean_of_each_class_first():
    """Labels 1, 1, 1, 0: (0.9 + 0.6 + 0.3) / 3 = 0.6 and 0.2; their mean is 0.4, not 0.5 of four rows."""
    assert draw_reward([0.9, 0.6, 0.3, 0.2], [1, 1, 1, 0]) == pytest.approx(0.4)
    assert draw_reward([0.7], [0]) == pytest.approx(0.7)


@pytest.mark.parametrize("shift", [-0.3, 0.1, 0.3])
@pytest.mark.parametrize("labels", [[1, 0], [1, 1, 1, 0], [0, 0, 0, 0, 1, 1], [1, 1], [0, 0]])
def test_a_text_that_only_raises_p_yes_wins_nothing(labels, shift):
    """Rows of one class would pay for it, so they give no reward."""

    def reward(p_yes: float) -> float:
        return draw_reward([p_yes if label else 1 - p_yes for label in labels], labels)

    if len(set(labels)) == 1:
        with pytest.raises(ValueError, match="a reward from 2 rows of one class"):
            reward(0.5 + shift)
        return
    assert reward(0.5 + shift) == pytest.approx(reward(0.5)) == pytest.approx(0.5)


def test_the_log_gain_is_what_the_text_adds_in_nats():
    """Labels 1, 1, 0: P(label) doubles, stays, doubles. Per class first: (log 2 + 0) / 2 and log 2; the mean .75 log 2.

    A probability of 0 counts as 1e-6, with and without the text.
    """
    gain = draw_reward([0.8, 0.4, 0.5], [1, 1, 0], [0.4, 0.4, 0.25])
    assert gain == pytest.approx(0.75 * math.log(2))
    assert draw_reward([0.0], [1], [1e-3]) == pytest.approx(-3 * math.log(10))
    assert draw_reward([0.5], [1], [0.0]) == pytest.approx(math.log(0.5e6))


def test_the_log_gain_orders_draws_as_their_mean_log_probability():
    """(.9, .1) and (.5, .5) have one mean probability; the logarithm asks most of the worst row."""
    probabilities, labels = [[0.9, 0.1], [0.5, 0.5], [0.6, 0.45]], [1, 0]
    due = [0.5 * (math.log(a) + math.log(b)) for a, b in probabilities]
    for without in ([0.5, 0.5], [0.99, 0.2]):
        part = 0.5 * (math.log(without[0]) + math.log(without[1]))
        found = [draw_reward(p, labels, without) for p in probabilities]
        assert found == pytest.approx([value - part for value in due])
    assert draw_reward(probabilities[0], labels) == pytest.approx(draw_reward(probabilities[1], labels))


def tables(p_true: dict[tuple[str, int, str], float], labels: dict[str, int]):
    """The draws, the scores {(history, draw, sample): p_true} and the samples of a round."""
    keys = sorted({(history, draw) for history, draw, _ in p_true})
    key = {"source": "g1", "round": 2}
    draws = [
        reccot_row(h, d, token_ids=[50 + d, 1], finish_reason="length" if d == 1 else "stop") | key for h, d in keys
    ]
    scores = [
        {"history_id": h, "draw": d, "sample_id": s, "validator": "v", "answer_mass": 1.0, "p_true": p, "p_yes": p}
        | key
        for (h, d, s), p in p_true.items()
    ]
    sample = {"user_id": "u", "item_id": "i", "timestamp": 0, "history_id": "h", "split": "train", "use": "reward"}
    sample |= {"recent_items": [], "recent_ratings": []}
    samples = [{"sample_id": s, "label": label, **sample} for s, label in labels.items()]
    return frame("reccots", draws), frame("scores", scores), frame("samples", samples)


def test_draws_get_the_rewards_of_their_own_scores():
    p_true = {("h0", 0, "a"): 0.9, ("h0", 0, "b"): 0.5, ("h0", 0, "c"): 0.4, ("h0", 1, "a"): 0.2}
    p_true |= {("h0", 1, "b"): 0.2, ("h0", 1, "c"): 0.8, ("h1", 0, "d"): 0.3}
    found, tone = collect_draws(*tables(p_true, {"a": 1, "b": 1, "c": 0, "d": 0}))
    assert found["h0"] == [
        ScoredDraw(0, (50, 1), True, pytest.approx((0.7 + 0.4) / 2)),
        ScoredDraw(1, (51, 1), False, pytest.approx((0.2 + 0.8) / 2)),
    ]
    assert found["h1"] == [ScoredDraw(0, (50, 1), True, pytest.approx(0.3))]
    assert -1 <= tone <= 1


def test_draws_get_their_log_gains_less_their_costs():
    """Rows a (liked) and b (not): .8 and .5 with a text against .4 and .5 without; half of log 2, less .1."""
    draws, scores, samples = tables(
        {("h0", 0, "a"): 0.8, ("h0", 0, "b"): 0.5, ("h0", 2, "a"): 0.4, ("h0", 2, "b"): 0.5}, {"a": 1, "b": 0}
    )
    without = pl.DataFrame({"sample_id": ["b", "a"], "p_true": pl.Series([0.5, 0.4], dtype=pl.Float32)})
    found, _ = collect_draws(draws, scores, samples, without, {("h0", 0): 0.1, ("h0", 2): 0.0})
    rewards = [(draw.draw, draw.reward, draw.cost) for draw in found["h0"]]
    assert rewards == [
        (0, pytest.approx(0.5 * math.log(2) - 0.1, abs=1e-6), 0.1),
        (2, pytest.approx(0.0, abs=1e-6), 0.0),
    ]
    with pytest.raises(ValueError, match="2 of 4 scores have none without a text"):
        collect_draws(draws, scores, samples, without.head(1))
    lost = without.with_columns(p_true=pl.lit(float("nan")))
    with pytest.raises(DivergedError, match="not finite"):
        collect_draws(draws, scores, samples, lost)


def test_the_least_reward_of_the_best_draw_leaves_out_its_cost():
    """.55 and .52 are above the .5 of null; .2 off each changes the order of none, and drops no set."""
    draws = {"h0": [draw._replace(reward=draw.reward - 0.2, cost=0.2) for draw in scored(0.55, 0.52)]}
    assert build(draws).counts["sets"] == 1
    assert build(draws, min_best=0.56).counts["dropped_all_wrong"] == 1
    gains = {"h0": scored(0.04, -0.3), "h1": scored(-0.01, -0.3)}
    made = build(gains, reward="log_gain")
    assert [row["history_id"] for row in made.rows] == ["h0"]
    assert made.counts["dropped_all_wrong"] == 1
    with pytest.raises(ValueError, match=r"align\.sets\.ungrounded must be at least 0, got -1"):
        PreferenceSettings(ungrounded=-1)


def test_a_validator_that_leans_shows_in_the_correlation():
    leaning = {("h0", draw, sample): 0.9 if sample == "a" else 0.2 for draw in (0, 2) for sample in "ab"}
    _, tone = collect_draws(*tables(leaning, {"a": 1, "b": 0}))
    assert tone == pytest.approx(1.0)
    level = {("h0", draw, sample): 0.9 if draw else 0.2 for draw in (0, 2) for sample in "ab"}
    _, tone = collect_draws(*tables(level, {"a": 1, "b": 0}))
    assert tone == pytest.approx(0.0, abs=1e-6)


def test_a_draw_without_a_score_is_an_error():
    draws, scores, samples = tables({("h0", 0, "a"): 0.9, ("h0", 2, "a"): 0.5}, {"a": 1})
    with pytest.raises(ValueError, match="1 of 2 draws have no score"):
        collect_draws(draws, scores.filter(scores["draw"] == 0), samples)


def test_a_score_that_is_no_number_is_an_error():
    draws = tables({("h0", 0, "a"): float("nan"), ("h0", 2, "a"): 0.5, ("h1", 0, "a"): 0.5}, {"a": 1})
    with pytest.raises(FloatingPointError, match=r"scores of 1 histories are not finite, the first is h0.*dtype"):
        collect_draws(*draws)


# -- one set ------------------------------------------------------------------------------------------------------


def test_the_best_is_chosen_and_the_rest_rejected():
    made = build({"h1": scored(0.2, 0.8, 0.6), "h0": scored(0.9, 0.1)})
    assert made.rows == [
        {"history_id": "h0", "source": "g1", "round": 2, "chosen": 0, "rejected": [1]}
        | {"chosen_reward": 0.9, "rejected_rewards": [0.1]},
        {"history_id": "h1", "source": "g1", "round": 2, "chosen": 1, "rejected": [2, 0]}
        | {"chosen_reward": 0.8, "rejected_rewards": [0.6, 0.2]},
    ]
    counted = {"histories": 2, "draws": 5, "sets": 2, "negatives": 3}
    assert counted.items() <= made.counts.items()


def test_equal_rewards_take_the_first_draw():
    (row,) = build({"h": scored(0.2, 0.8, 0.8)}).rows
    assert (row["chosen"], row["rejected"]) == (1, [2, 0])


def test_fault_09_identical_draws():
    """Equal token sequences are one draw: K varies, and no text is its own negative."""
    made = build({"h": scored(0.8, 0.8, 0.3, 0.8, 0.3, same=((0, 1), (0, 3), (2, 4)))})
    (row,) = made.rows
    assert (row["chosen"], row["rejected"]) == (0, [2])
    assert made.counts["equal_draws_merged"] == 3
    all_equal = build({"h": scored(0.8, 0.8, 0.8, same=((0, 1), (0, 2)))})
    assert all_equal.rows == []
    assert all_equal.counts["dropped_one_draw"] == 1


def test_fault_05_all_wrong_sets_are_dropped_and_only_they():
    draws = {
        "wrong": scored(0.49, 0.2, 0.1),
        "half": scored(0.5, 0.2),
        "one right": scored(0.1, 0.9, 0.2),
        "all right": scored(0.6, 0.9, 0.7),
    }
    made = build(draws)
    assert [row["history_id"] for row in made.rows] == ["all right", "half", "one right"]
    assert made.counts["dropped_all_wrong"] == 1
    assert len(build(draws, min_best=0.0).rows) == 4


def test_a_set_is_as_wrong_as_the_draw_that_it_chooses():
    """The best draw was cut by the length limit: it can't be chosen, so it can't save the set either."""
    made = build({"h": scored(0.3, 0.2, 0.9, cut=(2,))}, min_best=0.5)
    assert made.rows == []
    assert made.counts["dropped_all_wrong"] == 1


def test_a_small_spread_is_dropped():
    made = build({"close": scored(0.700, 0.705), "apart": scored(0.70, 0.72)})
    assert [row["history_id"] for row in made.rows] == ["apart"]
    assert made.counts["dropped_small_spread"] == 1
    assert len(build({"close": scored(0.700, 0.705)}, min_spread=0.001).rows) == 1


def test_without_thresholds_only_equal_rewards_make_no_set():
    """As in `configs/experiments/paper.yaml`: any difference makes a set; without one, no draw is the best."""
    draws = {"equal": scored(0.4, 0.4, 0.4), "nearly": scored(0.1, 0.1 + 1e-9, 0.1), "wrong": scored(0.0, 0.01)}
    made = build(draws, min_spread=0.0, min_best=0.0, drop_flattest=0.0)
    assert [(row["history_id"], row["chosen"]) for row in made.rows] == [("nearly", 1), ("wrong", 1)]
    assert made.counts["dropped_small_spread"] == 1


def test_the_flattest_sets_are_dropped_by_their_share():
    """Of five sets two are two fifths, whatever the scale of the rewards; what has no set doesn't count."""
    spreads = {"a": 0.1, "b": 0.3, "c": 0.2, "d": 0.5, "e": 0.4}
    for scale in (1.0, 0.1):
        draws = {key: scored(0.5, 0.5 + scale * spread) for key, spread in spreads.items()}
        draws["one"] = scored(0.9)
        made = build(draws, drop_flattest=0.4, min_spread=0.0)
        assert [row["history_id"] for row in made.rows] == ["b", "d", "e"]
        assert (made.counts["dropped_flattest"], made.counts["dropped_one_draw"]) == (2, 1)
        assert (made.counts["sets"], made.counts["negatives"]) == (3, 3)
    assert len(build(draws, drop_flattest=0.19, min_spread=0.0).rows) == 5
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"align\.sets\.drop_flattest must be in \[0, 1\)"):
            PreferenceSettings(drop_flattest=share)


def test_a_cut_draw_is_never_chosen():
    made = build({"h": scored(0.9, 0.7, 0.2, cut=(0,)), "all cut": scored(0.9, 0.2, cut=(0, 1))})
    (row,) = made.rows
    assert row["chosen"] == 1
    assert made.counts["cut_draws"] == 3
    assert made.counts["dropped_all_cut"] == 1


def test_a_set_whose_finished_draws_are_the_worst_is_dropped():
    made = build({"h": scored(0.9, 0.6, 0.8, cut=(0, 2))})
    assert made.rows == []
    assert made.counts["dropped_small_spread"] == 1


def test_a_cut_draw_above_the_chosen_one_is_left_out():
    """It can't be chosen, and to reject it would teach G to move away from what V likes best."""
    (row,) = build({"h": scored(0.9, 0.7, 0.2, cut=(0,))}).rows
    assert (row["chosen"], row["rejected"]) == (1, [2])


# -- the negatives ------------------------------------------------------------------------------------------------


def test_the_hardest_negatives():
    (row,) = build({"h": scored(0.1, 0.9, 0.5, 0.7, 0.3)}, negatives=2).rows
    assert (row["rejected"], row["rejected_rewards"]) == ([3, 2], [0.7, 0.5])


def test_random_negatives_are_a_function_of_the_key():
    draws = {f"h{i}": scored(0.9, 0.8, 0.7, 0.6, 0.5, 0.4) for i in range(8)}
    picked = [row["rejected"] for row in build(draws, negatives=2, pick="random").rows]
    assert picked == [row["rejected"] for row in build(dict(reversed(draws.items())), negatives=2, pick="random").rows]
    assert len({tuple(draws) for draws in picked}) > 3
    assert picked != [row["rejected"] for row in build(draws, negatives=2, pick="random", seed=1).rows]
    assert picked != [row["rejected"] for row in build(draws, negatives=2, pick="random", round_=3).rows]
    assert all(len(draws) == 2 and 0 not in draws for draws in picked)
    assert all(draws == sorted(draws) for draws in picked)  # best first


def test_more_negatives_than_there_are():
    for pick in ("hardest", "random"):
        (row,) = build({"h": scored(0.9, 0.2, 0.3)}, negatives=7, pick=pick).rows
        assert row["rejected"] == [2, 1]


def test_the_counts_add_up():
    draws = {
        "set": scored(0.9, 0.1),
        "another": scored(0.9, 0.2, 0.1),
        "wrong": scored(0.2, 0.1),
        "close": scored(0.8, 0.8001),
        "one": scored(0.9),
        "cut": scored(0.9, 0.1, cut=(0, 1)),
        "worst": scored(0.9, 0.6, cut=(0,)),
    }
    counts = build(draws).counts
    dropped = {name: count for name, count in counts.items() if name.startswith("dropped_")}
    assert dropped == {
        "dropped_all_wrong": 1,
        "dropped_small_spread": 2,
        "dropped_one_draw": 1,
        "dropped_all_cut": 1,
    }
    assert counts["histories"] == 7 == counts["sets"] + sum(dropped.values())
    assert counts["negatives"] == 3
    assert counts["draws"] == 14


def test_a_bad_number_of_negatives_is_named():
    with pytest.raises(ValueError, match=r"align\.sets\.negatives must be 'all' or at least 1, got 0"):
        PreferenceSettings(negatives=0)


# -- shuffled rewards ---------------------------------------------------------------------------------------------


def test_shuffled_rewards_keep_the_rewards_and_lose_the_draws():
    """The best and the worst reward stay what they were; who has them is chance, the same chance each time."""
    draws = {f"h{i}": scored(0.9, 0.7, 0.6, 0.2) for i in range(40)}
    plain, dealt = build(draws), build(draws, shuffle_rewards=True)
    assert dealt == build(draws, shuffle_rewards=True)
    assert dealt.counts == plain.counts
    assert {row["chosen_reward"] for row in dealt.rows} == {0.9}
    assert [sorted(row["rejected_rewards"]) for row in dealt.rows] == [[0.2, 0.6, 0.7]] * 40
    chosen = Counter(row["chosen"] for row in dealt.rows)
    assert set(chosen) == {0, 1, 2, 3}
    assert max(chosen.values()) < 20
    assert {row["chosen"] for row in plain.rows} == {0}
    assert [row["chosen"] for row in build(draws, seed=1, shuffle_rewards=True).rows] != [
        row["chosen"] for row in dealt.rows
    ]


def test_shuffled_rewards_go_with_texts_not_with_equal_draws():
    """Draws 0 and 1 are one text: it has one reward, the first's, before the rewards are dealt out."""
    made = build({"h": scored(0.9, 0.1, 0.6, same=((0, 1),))}, shuffle_rewards=True)
    (row,) = made.rows
    assert {row["chosen_reward"], *row["rejected_rewards"]} == {0.9, 0.6}
