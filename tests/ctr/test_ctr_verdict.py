"""Differences, placebos, verdicts and slices on predictions whose truth is known."""

import math

import numpy as np
import polars as pl
import pytest

from trackrec.ctr.arms.assemble import CTRInputs
from trackrec.ctr.arms.slices import COLD_ITEM, sample_slices
from trackrec.ctr.arms.verdict import HELPS, HURTS, NO_EVIDENCE, arm_metrics, arm_scores, best_placebos, verdict
from trackrec.metrics.intervals import LEAST_USERS, Interval, paired_bootstrap, seed_draws
from trackrec.metrics.scores import accuracy, auc, log_loss

N_USERS, ROWS = 60, 20


def make(signal, split_seed=0):
    """Samples and predictions: ``signal[arm]`` is how much of the label an arm's logit holds."""
    rng = np.random.default_rng(split_seed)
    samples, rows = [], []
    for split in ("valid", "test"):
        for user in range(N_USERS):
            for row in range(ROWS):
                key, label = f"{split}-{user}-{row}", int(rng.random() < 0.5)
                samples.append({"sample_id": key, "user_id": f"u{user}", "label": label, "split": split})
    noise = rng.normal(size=(len(samples), 2))
    for arm, weight in signal.items():
        for seed in (0, 1):
            for place, sample in enumerate(samples):
                logit = weight * (2 * sample["label"] - 1) + noise[place, 0] + 0.05 * noise[place, 1] * seed
                rows.append({"sample_id": sample["sample_id"], "split": sample["split"], "arm": arm, "seed": seed})
                rows[-1]["p"] = 1 / (1 + math.exp(-logit))
    return pl.DataFrame(rows), pl.DataFrame(samples)


def table(signal, split="test", **args):
    predictions, samples = make(signal)
    rows = arm_metrics(predictions, samples, split, "test", seed=0, **args)
    return {(row["arm"], row["slice"], row["name"]): row for row in rows}


def test_differences_are_those_of_the_paired_bootstrap():
    signal = {"none": 0.2, "reccot": 0.5}
    predictions, samples = make(signal)
    found = table(signal)
    a, b = (arm_scores(predictions, samples, "test", arm) for arm in ("reccot", "none"))
    for name, metric in (("auc", auc), ("acc", accuracy), ("log_loss", log_loss)):
        expected = paired_bootstrap(metric, a.users, a.labels, a.p, b.p, seed=0)
        row = found["reccot", "all", f"{name}_minus_none"]
        assert (row["value"], row["ci_low"], row["ci_high"], row["n"]) == expected
    assert found["reccot", "all", "auc"]["value"] == pytest.approx(np.mean([auc(p, a.labels) for p in a.p]), abs=1e-6)
    drawn = [seed_draws(auc, s.users, s.labels, s.p, seed=0) for s in (a, b)]
    assert found["reccot", "all", "auc_minus_none_mde"]["value"] == (drawn[0] - drawn[1]).detectable()


@pytest.mark.parametrize(
    ("signal", "due"),
    [
        ({"none": 0.2, "shuffled": 0.2, "random": 0.1, "reccot": 0.6}, HELPS),
        ({"none": 0.2, "shuffled": 0.6, "random": 0.1, "reccot": 0.6}, NO_EVIDENCE),  # a placebo does as well
        ({"none": 0.6, "shuffled": 0.2, "random": 0.1, "reccot": 0.6}, NO_EVIDENCE),  # no better than no text
        ({"none": 0.6, "shuffled": 0.6, "random": 0.1, "reccot": 0.2}, HURTS),
        ({"none": 0.6, "shuffled": 0.2, "random": 0.1, "reccot": 0.2}, NO_EVIDENCE),  # any vector does as badly
        ({"none": 0.2, "shuffled": 0.6, "random": 0.1, "reccot": 0.2}, NO_EVIDENCE),  # no worse than no text
    ],
)
def test_verdicts(signal, due):
    found = table(signal)
    assert found["reccot", "all", "verdict"]["value"] == due
    assert not [key for key in found if key[2] == "verdict" and key[0] != "reccot"]


def interval(low, high):
    return Interval((low + high) / 2, low, high, 9)


@pytest.mark.parametrize(
    ("minus_none", "minus_placebo", "due"),
    [
        ((0.01, 0.02), (0.01, 0.02), HELPS),
        ((0.01, 0.02), (-0.01, 0.02), NO_EVIDENCE),
        ((-0.01, 0.02), (0.01, 0.02), NO_EVIDENCE),
        ((-0.02, -0.01), (-0.02, -0.01), HURTS),
        ((-0.02, -0.01), (-0.02, 0.01), NO_EVIDENCE),
        ((-0.02, 0.01), (-0.02, -0.01), NO_EVIDENCE),
        ((0.01, 0.02), (-0.02, -0.01), NO_EVIDENCE),
    ],
)
def test_a_verdict_takes_both_comparisons(minus_none, minus_placebo, due):
    assert verdict(interval(*minus_none), interval(*minus_placebo)) == due


def test_one_training_seed_gives_intervals_and_no_verdict():
    predictions, samples = make({"none": 0.2, "shuffled": 0.2, "reccot": 0.9})
    rows = arm_metrics(predictions.filter(pl.col("seed") == 0), samples, "test", "test", seed=0)
    found = {row["name"]: row for row in rows if row["arm"] == "reccot"}
    assert found["auc_minus_none"]["ci_low"] > 0
    assert found["auc_minus_best_placebo"]["ci_low"] > 0
    assert "verdict" not in found


def test_without_a_placebo_or_without_none_there_is_no_verdict():
    assert not [key for key in table({"none": 0.2, "reccot": 0.6}) if key[2] == "verdict"]
    assert not [key for key in table({"shuffled": 0.2, "reccot": 0.6}) if key[2] == "verdict"]


def test_the_best_placebo_is_chosen_on_validation():
    """On test rows the other placebo is better; that must not matter."""
    predictions, samples = make({"none": 0.2, "shuffled": 0.5, "random": 0.3, "reccot": 0.5})
    is_test, label = pl.col("split") == "test", pl.col("label") == 1
    worse = predictions.join(samples.select("sample_id", "label"), on="sample_id").with_columns(
        p=pl.when(is_test & (pl.col("arm") == "random")).then(pl.when(label).then(0.9).otherwise(0.1)).otherwise("p")
    )
    assert best_placebos(worse, samples) == ["shuffled"]
    rows = arm_metrics(worse.drop("label"), samples, "test", "test", seed=0)
    found = {(row["arm"], row["name"]): row["value"] for row in rows}
    assert found["shuffled", "chosen_placebo"] == 1.0
    assert ("random", "chosen_placebo") not in found
    assert found["reccot", "auc_minus_best_placebo"] == found["reccot", "auc_minus_shuffled"]
    assert found["reccot", "auc_minus_random"] < 0 < found["random", "auc_minus_none"]


def test_classic_models_are_compared_with_themselves_and_the_nets_with_them():
    signal = {"none": 0.2, "reccot": 0.5, "shuffled": 0.3, "logistic": 0.3, "logistic+reccot": 0.4}
    found = table({**signal, "logistic+shuffled": 0.3, "item_mean": 0.1})
    names = {arm: {key[2] for key in found if key[0] == arm and "minus" in key[2]} for arm in signal}
    assert "auc_minus_logistic" in names["none"]
    assert {"auc_minus_logistic", "auc_minus_none", "auc_minus_best_placebo"} <= names["reccot"]
    assert {name for name in names["logistic+reccot"] if name.startswith("auc")} == {
        *("auc_minus_logistic", "auc_minus_logistic_mde", "auc_minus_best_placebo", "auc_minus_best_placebo_mde")
    }
    assert not names["logistic"]
    assert not [key for key in found if key[0] == "item_mean" and "minus" in key[2]]


def test_slices_are_the_arms_on_their_rows():
    signal = {"none": 0.2, "shuffled": 0.2, "reccot": 0.5}
    predictions, samples = make(signal)
    chosen = samples.filter(pl.col("user_id").is_in([f"u{user}" for user in range(1, 13)]))
    slices = chosen.select("sample_id", slice=pl.lit("few"))
    one_class = samples.filter(pl.col("label") == 1).select("sample_id", slice=pl.lit("liked"))
    found = table(signal, slices=pl.concat([slices, one_class]))
    few = predictions.join(slices, on="sample_id")
    alone = arm_scores(few, samples, "test", "reccot")
    row = found["reccot", "few", "auc"]
    assert row["value"] == pytest.approx(np.mean([auc(p, alone.labels) for p in alone.p]), abs=1e-6)
    assert row["n"] == 12 * ROWS
    assert {"auc_minus_none", "auc_minus_best_placebo"} <= {key[2] for key in found if key[:2] == ("reccot", "few")}
    assert not [key for key in found if key[1] == "liked"]


def test_every_sample_is_in_one_slice_of_each_kind(tables):
    seen = frozenset({"u1", "u2"})
    inputs = CTRInputs(tables.samples, tables.histories, tables.items, tables.interactions, 3.0, {}, seen_users=seen)
    slices = sample_slices(inputs)
    kinds = {
        "items": ["cold_items", "warm_items"],
        "history": ["short_history", "long_history"],
        "activity": [f"activity_{place}" for place in range(1, 6)],
        "seen": ["seen_users", "unseen_users"],
    }
    assert set(slices["slice"]) <= {name for names in kinds.values() for name in names}
    for names in kinds.values():
        of_kind = slices.filter(pl.col("slice").is_in(names))
        assert sorted(of_kind["sample_id"]) == sorted(tables.samples["sample_id"])
    users = dict(tables.samples.select("sample_id", "user_id").iter_rows())
    seen_rows = slices.filter(pl.col("slice") == "seen_users")["sample_id"]
    assert {users[key] for key in seen_rows} == seen
    assert not slices.filter(pl.col("slice") == "cold_items").height
    assert sample_slices(inputs._replace(seen_users=None)).filter(pl.col("slice") == "seen_users").is_empty()


def test_cold_users_have_nothing_in_history_and_recent_list(tables):
    """u1 and u2 have an empty history; the first row of each user has an empty recent list."""
    empty = pl.col("user_id").is_in(["u1", "u2"])
    lists = [
        pl.when(empty).then(pl.col(name).list.head(0)).otherwise(name).alias(name) for name in ("item_ids", "ratings")
    ]
    inputs = CTRInputs(tables.samples, tables.histories.with_columns(lists), tables.items, tables.interactions, 3.0, {})
    found = sample_slices(inputs).filter(pl.col("slice") == "cold_users")["sample_id"]
    first = tables.samples.filter(pl.col("recent_items").list.len() == 0, pl.col("user_id").is_in(["u1", "u2"]))
    assert len(found) == 2
    assert sorted(found) == sorted(first["sample_id"])
    assert sample_slices(inputs._replace(histories=tables.histories)).filter(pl.col("slice") == "cold_users").is_empty()


def test_cold_items_have_few_ratings_that_statistics_may_count(tables):
    """Items of which all but COLD_ITEM train and history rows are taken away."""
    keys = tables.interactions.with_columns(place=pl.int_range(pl.len()).over("item_id"))
    fewer = keys.filter((pl.col("item_id") != "i3") | (pl.col("place") < COLD_ITEM)).drop("place")
    inputs = CTRInputs(tables.samples, tables.histories, tables.items, fewer, 3.0, {})
    cold = sample_slices(inputs).filter(pl.col("slice") == "cold_items")["sample_id"]
    items = dict(tables.samples.select("sample_id", "item_id").iter_rows())
    assert {items[key] for key in cold} == {"i3"}


def test_a_slice_of_few_users_gets_no_interval():
    predictions, _ = make({"none": 0.2})
    ids = predictions.filter((pl.col("split") == "test") & (pl.col("seed") == 0))["sample_id"]
    for users, shown in ((LEAST_USERS - 1, False), (LEAST_USERS, True)):
        some = ids.filter(ids.str.split("-").list.get(1).cast(pl.Int64) < users)
        found = table({"none": 0.2}, slices=pl.DataFrame({"sample_id": some, "slice": "few"}))
        assert (("none", "few", "auc") in found) == shown


def test_an_arm_of_two_texts_over_a_classic_model_is_no_placebo():
    names = {
        key[2]
        for key in table({"none": 0, "logistic": 0, "logistic+prompt": 0, "prompt": 0, "logistic+reccot+prompt": 1})
        if key[0] == "logistic+reccot+prompt"
    }
    assert "auc_minus_best_placebo" in names


def test_a_text_for_some_users_is_judged_by_no_placebo_about_everybody():
    found = table({"none": 0.2, "reccot": 1.4, "shuffled": 0.0, "reccot@0.5": 0.9})
    named = {name for arm, _, name in found if arm == "reccot@0.5"}
    assert "auc_minus_none" in named
    assert not {"verdict", "auc_minus_shuffled", "auc_minus_best_placebo"} & named
    assert found["reccot", "all", "verdict"]["value"] == 1
