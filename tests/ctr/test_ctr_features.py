"""What a row's features may depend on, and what they are."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from ctr_tables import make_tables

from trackrec.ctr.arms.baselines import baseline_predictions
from trackrec.ctr.features.dense_statistics import dense_names
from trackrec.ctr.features.past import PADDING, UNKNOWN, Earlier, source_rows

INPUTS = [
    "user",
    "item",
    "item_row",
    "history",
    "recent_items",
    "recent_rows",
    "recent_ratings",
    "recent_mask",
    "dense",
]


def row_of(data, sample_id):
    for split, ids in data.sample_ids.items():
        if sample_id in ids:
            return {name: data.splits[split][name][ids.index(sample_id)] for name in INPUTS}
    raise AssertionError(sample_id)


def places(tables, split):
    """(user, rating number) of the rows of a split."""
    ids = tables.samples.filter(pl.col("split") == split)["sample_id"]
    return [(int(s[1:]) % 12, int(s[1:]) // 12) for s in ids]


def test_flipping_a_train_label_leaves_the_rows_own_features_unchanged(tables, ratings):
    before = tables.features()
    for user, number in places(tables, "train")[::3]:
        flipped = ratings.copy()
        flipped[user, number] = 1.0 if ratings[user, number] > 3 else 5.0
        after = make_tables(flipped).features()
        sample = f"s{number * 12 + user}"
        a, b = row_of(before, sample), row_of(after, sample)
        assert all(torch.equal(a[name], b[name]) for name in INPUTS), sample
        changed = any(
            not torch.equal(before.splits[s]["dense"], after.splits[s]["dense"]) for s in ("train", "valid", "test")
        )
        assert changed, "a flip that no later row sees tests nothing"


def test_any_unit_gives_the_same_features(tables):
    """Ratings on another scale, in the same order and with the same likes, and so in every feature."""
    stars, plays = tables.features(scale=None), _mapped(tables, np.exp2).features(scale=None, threshold=8.0)
    for split, columns in stars.splits.items():
        for name in INPUTS:
            torch.testing.assert_close(plays.splits[split][name], columns[name], atol=1e-6, rtol=0)
    assert (stars.scale.threshold, plays.scale.threshold) == (3.0, 8.0)


def _mapped(tables, change):
    lists = pl.col("recent_ratings").list.eval(pl.element().map_batches(change))
    return tables._replace(
        samples=tables.samples.with_columns(lists),
        histories=tables.histories.with_columns(pl.col("ratings").list.eval(pl.element().map_batches(change))),
        interactions=tables.interactions.with_columns(pl.col("rating").map_batches(change)),
    )


def test_rows_left_out_leave_the_statistics_as_they_are(tables):
    """Users without a text are no rows, but their ratings count, and their held-out ratings still don't."""
    every = {"history_id": "x", "user_id": "u1", "item_ids": [f"i{i}" for i in range(15)], "ratings": [5.0] * 15}
    histories = pl.concat([tables.histories, pl.DataFrame([every], schema=tables.histories.schema)])
    rows = tables.samples.filter(pl.col("user_id") != "u1")
    kept = set(rows["sample_id"])
    part = tables.features(samples=rows, histories=histories, whole=tables.samples)
    full = tables.features(histories=histories)
    for split, ids in full.sample_ids.items():
        of_full = [place for place, name in enumerate(ids) if name in kept]
        assert list(part.sample_ids[split]) == [ids[place] for place in of_full]
        torch.testing.assert_close(part.splits[split]["dense"], full.splits[split]["dense"][of_full])
    # Without the whole table a held-out rating of u1, which a history holds, is taken for a known one.
    assert not torch.equal(
        tables.features(samples=rows, histories=histories).splits["test"]["dense"], part.splits["test"]["dense"]
    )


@pytest.mark.parametrize("split", ["valid", "test"])
def test_held_out_labels_reach_no_statistic(tables, split):
    """The ratings of valid and test rows are turned in interactions and labels; recent lists stay as they are."""
    held = tables.samples.filter(pl.col("split") == split).select("user_id", "item_id", held=True)
    interactions = (
        tables.interactions.join(held, on=["user_id", "item_id"], how="left")
        .with_columns(rating=pl.when("held").then(6 - pl.col("rating")).otherwise("rating"))
        .drop("held")
    )
    samples = tables.samples.with_columns(
        label=pl.when(pl.col("split") == split).then(1 - pl.col("label")).otherwise("label")
    )
    before, after = tables.features(), tables.features(interactions=interactions, samples=samples)
    for name, tensors in before.splits.items():
        assert all(torch.equal(tensors[key], after.splits[name][key]) for key in INPUTS), name
    assert baseline_predictions(samples, tables.histories, interactions).equals(
        baseline_predictions(tables.samples, tables.histories, tables.interactions)
    )


def test_a_history_that_holds_valid_rows_gives_them_to_no_statistic(tables):
    """``history.per: sample``: a later history contains earlier valid and test rows."""
    everything = tables.interactions.group_by("user_id", maintain_order=True).agg(
        item_ids="item_id", ratings="rating", history_id="user_id"
    )
    source = source_rows(tables.samples, everything.with_columns(history_id=pl.lit("x")), tables.interactions)
    held = tables.samples.filter(pl.col("split") != "train")
    assert len(source) == 12 * 11
    assert not len(source.join(held, on=["user_id", "item_id"], how="semi"))


def test_item_statistics_by_hand(tables):
    data, column = tables.features(), dense_names().index
    known = source_rows(tables.samples, tables.histories, tables.interactions).to_dicts()
    for sample in tables.samples.to_dicts()[::7]:
        earlier = [r for r in known if r["timestamp"] < sample["timestamp"]]
        same = [r for r in earlier if r["item_id"] == sample["item_id"]]
        base = (sum(r["rating"] > 3 for r in earlier) + 1) / (len(earlier) + 2)
        rate = (sum(r["rating"] > 3 for r in same) + 10 * base) / (len(same) + 10)
        dense = row_of(data, sample["sample_id"])["dense"].numpy()
        assert dense[column("item_like_logit")] == pytest.approx(np.log(rate / (1 - rate)), abs=1e-5)
        assert dense[column("item_log_count")] == pytest.approx(np.log1p(len(same)) / 5, abs=1e-6)


def test_list_statistics_by_hand(tables):
    data, column = tables.features(), dense_names().index
    genres = dict(tables.items.select("item_id", "attributes").iter_rows())
    for sample in tables.samples.to_dicts()[::5]:
        liked = [r > 3 for r in sample["recent_ratings"]]
        affinity = 0.0
        for genre in genres[sample["item_id"]]:
            votes = [1 if y else -1 for i, y in zip(sample["recent_items"], liked, strict=True) if genre in genres[i]]
            affinity += sum(votes) / (len(votes) + 1) / len(genres[sample["item_id"]])
        dense = row_of(data, sample["sample_id"])["dense"].numpy()
        mean = np.mean(sample["recent_ratings"]) - 3 if liked else 0.0
        assert dense[column("recent_affinity")] == pytest.approx(affinity, abs=1e-6)
        assert dense[column("recent_mean_rating")] == pytest.approx(mean / 2, abs=1e-6)
        assert dense[column("recent_like_share")] == pytest.approx(
            2 * (sum(liked) + 1) / (len(liked) + 2) - 1, abs=1e-6
        )


def test_earlier_is_strict():
    earlier = Earlier(np.array([0, 0, 0, 1]), np.array([5, 5, 7, 6]), np.array([[1.0], [2.0], [4.0], [8.0]]))
    count, sums = earlier(np.array([0, 0, 0, 1, 1, 2]), np.array([5, 6, 8, 6, 7, 9]))
    assert count.tolist() == [0, 2, 3, 0, 1, 0]
    assert sums[:, 0].tolist() == [0, 3, 7, 0, 8, 0]


def test_fault_15_one_padding_convention(tables):
    """Lists are left aligned everywhere; index 0, rating 0 and mask False stand on the right and nowhere else."""
    data = tables.features(recent_len=6)
    wanted = dict(tables.samples.select("sample_id", "recent_items").iter_rows())
    for split, tensors in data.splits.items():
        length = torch.tensor([len(wanted[s]) for s in data.sample_ids[split]])
        mask = torch.arange(6) < length[:, None]
        assert torch.equal(tensors["recent_mask"], mask)
        assert torch.equal(tensors["recent_items"] != PADDING, mask)
        assert torch.equal(tensors["recent_rows"] != PADDING, mask)
        assert not tensors["recent_ratings"][~mask].any()
    filled = (data.item_attributes != PADDING).int()
    assert torch.equal(filled, filled.sort(dim=1, descending=True).values)


def test_a_short_width_keeps_the_last_items(tables):
    data = tables.features(recent_len=2)
    vocabulary = {item: 2 + place for place, item in enumerate(data.vocabularies.items)}
    for sample in tables.samples.filter(pl.col("split") == "train").to_dicts()[::4]:
        row = row_of(data, sample["sample_id"])
        expected = [vocabulary[i] for i in sample["recent_items"][-2:]]
        assert row["recent_items"][: len(expected)].tolist() == expected


def test_vocabularies_come_from_train_rows(tables):
    is_u3 = pl.col("user_id") == "u3"
    samples = tables.samples.with_columns(split=pl.when(is_u3).then(pl.lit("test")).otherwise("split"))
    data = tables.features(samples=samples)
    assert "u3" not in data.vocabularies.users
    rows = [user == "u3" for user in data.user_ids["test"]]
    assert set(data.splits["test"]["user"][torch.tensor(rows)].tolist()) == {UNKNOWN}
    again = tables.features(samples=samples, vocabularies=replace(data.vocabularies, items=["i1"]))
    assert again.spec.n_items == 3


def test_keys_that_no_table_holds_are_named(tables):
    left = pl.col("item_id") != "i14"
    with pytest.raises(ValueError, match=r"1 items of recent_items not found, first \['i14'\]"):
        tables.features(items=tables.items.filter(left), interactions=tables.interactions.filter(left))
    with pytest.raises(ValueError, match="1 history_id of samples not found"):
        tables.features(histories=tables.histories[1:])
    with pytest.raises(ValueError, match="no train rows"):
        tables.features(samples=tables.samples.filter(pl.col("split") == "test"))


def test_baselines_are_smoothed_rates_of_earlier_rows(tables):
    found = baseline_predictions(tables.samples, tables.histories, tables.interactions)
    assert found["sample_id"].equals(tables.samples["sample_id"])
    known = source_rows(tables.samples, tables.histories, tables.interactions).to_dicts()
    for sample, row in list(zip(tables.samples.to_dicts(), found.to_dicts(), strict=True))[::11]:
        earlier = [r for r in known if r["timestamp"] < sample["timestamp"]]
        base = (sum(r["rating"] > 3 for r in earlier) + 1) / (len(earlier) + 2)
        own = [r["rating"] for r in earlier if r["user_id"] == sample["user_id"]] + sample["recent_ratings"]
        user = (sum(r > 3 for r in own) + 5 * base) / (len(own) + 5)
        assert row["user_mean"] == pytest.approx(user)
        odds = [p / (1 - p) for p in (row["item_mean"], row["user_mean"], base)]
        assert row["item_user"] / (1 - row["item_user"]) == pytest.approx(odds[0] * odds[1] / odds[2])


def test_baselines_know_what_the_nets_know(tables):
    """With ``recent`` the user's rate is that of the recent list's rated items; with ``none`` there is none."""
    first = pl.col("recent_ratings").list.eval(pl.when(pl.int_range(pl.len()) > 0).then(pl.element()))
    samples = tables.samples.with_columns(first)
    given = samples, tables.histories, tables.interactions
    found = baseline_predictions(*given, history_statistics="recent")
    whole = baseline_predictions(*given)
    assert whole["item_mean"].equals(found["item_mean"])
    assert not whole["user_mean"].equals(found["user_mean"])
    known = source_rows(tables.samples, tables.histories, tables.interactions).to_dicts()
    for sample, row in list(zip(samples.to_dicts(), found.to_dicts(), strict=True))[::11]:
        earlier = [r for r in known if r["timestamp"] < sample["timestamp"]]
        base = (sum(r["rating"] > 3 for r in earlier) + 1) / (len(earlier) + 2)
        own = sample["recent_ratings"][1:]
        assert row["user_mean"] == pytest.approx((sum(r > 3 for r in own) + 5 * base) / (len(own) + 5))
    assert baseline_predictions(*given, history_statistics="none").columns == ["sample_id", "split", "item_mean"]


def test_a_cold_user_has_no_list_statistics_and_the_base_rate(tables):
    """With all histories and recent lists empty: the statistics of both are zero, and the user's rate is the base."""

    def emptied(frame, *names):
        return frame.with_columns(pl.col(name).list.head(0) for name in names)

    samples = emptied(tables.samples, "recent_items", "recent_ratings")
    cold = samples.filter(pl.col("user_id") == "u0").with_columns(user_id=pl.lit("new"), history_id=pl.lit("none"))
    samples = pl.concat([samples, cold.with_columns(sample_id="new-" + pl.col("sample_id"))])
    histories = emptied(tables.histories, "item_ids", "ratings")
    histories = pl.concat([histories, histories.head(1).with_columns(history_id=pl.lit("none"), user_id=pl.lit("new"))])
    features = tables.features(samples=samples, histories=histories)
    for rows in features.splits.values():
        assert not rows["recent_mask"].any()
        of_lists = [i for i, name in enumerate(dense_names()) if name.startswith(("recent_", "history_"))]
        assert not rows["dense"][:, [*of_lists, dense_names().index("neighbour_score")]].any()
        assert torch.isfinite(rows["dense"]).all()
    found = baseline_predictions(samples, histories, tables.interactions).filter(
        pl.col("sample_id").str.starts_with("new-")
    )
    # logit(item) + logit(user) - logit(base), and the user's rate is the base rate
    np.testing.assert_allclose(found["item_user"], found["item_mean"], rtol=1e-9)
    assert found["user_mean"].is_between(0, 1, closed="none").all()


def test_year_affinity_by_hand(tables):
    years = {f"i{place}": None if place == 4 else 1980 + 3 * place for place in range(15)}
    items = tables.items.with_columns(year=pl.Series([years[key] for key in tables.items["item_id"]], dtype=pl.Int32))
    data, column = tables.features(items=items), dense_names().index
    known = source_rows(tables.samples, tables.histories, tables.interactions).to_dicts()
    for sample in tables.samples.to_dicts()[::5]:
        near, total = 0.0, 0.0
        own = years[sample["item_id"]]
        for item, rating in zip(sample["recent_items"], sample["recent_ratings"], strict=True):
            if own is None or years[item] is None:
                continue
            weight = np.exp(-abs(own - years[item]) / 5)
            near, total = near + weight, total + weight * residual(known, sample["timestamp"], item, rating)
        dense = row_of(data, sample["sample_id"])["dense"].numpy()
        assert dense[column("recent_year_affinity")] == pytest.approx(total / (near + 1), abs=1e-5)
        assert dense[column("item_year")] == pytest.approx(0.0 if own is None else (own - 2000) / 10, abs=1e-6)


def residual(known, time, item, rating):
    """What a rating (scaled) is above its item's smoothed mean of earlier rows."""
    earlier = [r for r in known if r["timestamp"] < time]
    base = sum(r["rating"] - 3 for r in earlier) / (len(earlier) + 2) / 2
    same = [(r["rating"] - 3) / 2 for r in earlier if r["item_id"] == item]
    return (rating - 3) / 2 - (sum(same) + 10 * base) / (len(same) + 10)


def test_neighbour_scores_by_hand(tables, monkeypatch):
    """Pair by pair, over the source rows of blocks that ended before the sample's own began."""
    data, column = tables.features(), dense_names().index
    known = source_rows(tables.samples, tables.histories, tables.interactions).to_dicts()
    edges = np.unique(np.quantile([r["timestamp"] for r in known], np.linspace(0, 1, 33)[:-1], method="lower"))
    above: dict[str, list] = {}
    for r in known:
        r["above"] = residual(known, r["timestamp"], r["item_id"], r["rating"])
    for r in known:
        past = [o["above"] for o in known if o["user_id"] == r["user_id"] and o["timestamp"] < r["timestamp"]]
        r["residual"] = r["above"] - sum(past) / (len(past) + 5)
        above.setdefault(r["user_id"], []).append(r)
    histories = {row["history_id"]: row for row in tables.histories.to_dicts()}
    nonzero = 0
    for sample in tables.samples.to_dicts()[::6]:
        start = max(edge for edge in edges if edge <= sample["timestamp"])
        history = histories[sample["history_id"]]
        listed = dict(zip(history["item_ids"], history["ratings"], strict=True))
        for item, rating in zip(sample["recent_items"], sample["recent_ratings"], strict=True):
            listed.setdefault(item, rating)
        own = {item: residual(known, sample["timestamp"], item, rating) for item, rating in listed.items()}
        mean = sum(own.values()) / (len(own) + 5)
        score = 0.0
        for item, value in own.items():
            pairs = []
            for rows in above.values():
                e = {r["item_id"]: r["residual"] for r in rows if r["timestamp"] < start}
                if item in e and sample["item_id"] in e and item != sample["item_id"]:
                    pairs.append(e[item] * e[sample["item_id"]])
            score += sum(pairs) / ((len(pairs) + 20) * 0.25) * (value - mean)
        found = float(row_of(data, sample["sample_id"])["dense"][column("neighbour_score")])
        assert found == pytest.approx(score, abs=1e-5)
        nonzero += score != 0
    assert nonzero > 10


def test_only_the_most_rated_items_have_neighbours(tables, monkeypatch):
    """With room for three items, the scores of every other target are 0 and those of the three need each other."""
    fewer = tables.interactions.with_columns(place=pl.int_range(pl.len()).over("item_id"))
    rare = ~pl.col("item_id").is_in(["i1", "i2", "i3"])
    fewer = fewer.filter(~(rare & (pl.col("place") >= 6))).drop("place")
    monkeypatch.setattr("trackrec.ctr.features.neighbours.MAX_ITEMS", 3)
    data = tables.features(interactions=fewer)
    scores = data.splits["train"]["dense"][:, dense_names().index("neighbour_score")]
    items = dict(tables.samples.select("sample_id", "item_id").iter_rows())
    of = [items[key] for key in data.sample_ids["train"]]
    assert {item for item, score in zip(of, scores.tolist(), strict=True) if score} <= {"i1", "i2", "i3"}
    assert scores.any()
