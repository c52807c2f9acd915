"""What a net knows of a user's own earlier ratings, and of users it can't know."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from trackrec.ctr.features.dense_statistics import USER_NAMES, FeatureSettings, dense_names
from trackrec.ctr.features.past import UNKNOWN, source_rows

COLUMNS = [dense_names().index(name) for name in USER_NAMES]


def expected_rating(known, time, item):
    """An item's smoothed mean rating on the scale, from earlier rows."""
    earlier = [r for r in known if r["timestamp"] < time]
    base = sum((r["rating"] - 3) / 2 for r in earlier) / (len(earlier) + 2)
    same = [(r["rating"] - 3) / 2 for r in earlier if r["item_id"] == item]
    return (sum(same) + 10 * base) / (len(same) + 10)


def test_user_statistics_by_hand(tables):
    """No validation user is new here, so no train row hides its user."""
    data = tables.features()
    genres = dict(tables.items.select("item_id", "attributes").iter_rows())
    known = source_rows(tables.samples, tables.histories, tables.interactions).to_dicts()
    for row in known:
        row["above"] = (row["rating"] - 3) / 2 - expected_rating(known, row["timestamp"], row["item_id"])
    compared = 0
    for sample in tables.samples.to_dicts()[::7]:
        earlier = [r for r in known if r["timestamp"] < sample["timestamp"]]
        own = [r for r in earlier if r["user_id"] == sample["user_id"]]
        base = (sum(r["rating"] > 3 for r in earlier) + 1) / (len(earlier) + 2)
        rate = (sum(r["rating"] > 3 for r in own) + 5 * base) / (len(own) + 5)
        mean = sum(r["above"] for r in own) / (len(own) + 5)
        affinity = 0.0
        for genre in genres[sample["item_id"]]:
            shared = [r["above"] - mean for r in own if genre in genres[r["item_id"]]]
            affinity += sum(shared) / (len(shared) + 5) / len(genres[sample["item_id"]])
        wanted = [np.log(rate / (1 - rate)) - np.log(base / (1 - base)), mean, np.log1p(len(own)) / 5, affinity]
        place = data.sample_ids[sample["split"]].index(sample["sample_id"])
        found = data.splits[sample["split"]]["dense"][place, COLUMNS]
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        compared += len(own) > 0
    assert compared > 10


def moved(tables, users, split):
    """The samples with all rows of some users in one split."""
    return tables.samples.with_columns(
        split=pl.when(pl.col("user_id").is_in(users)).then(pl.lit(split)).otherwise("split")
    )


def test_users_are_hidden_in_training_as_often_as_in_validation(tables):
    """Half of the validation rows are of users without a train row: about half of the train rows hide their user."""
    samples = moved(tables, ["u0", "u1"], "valid")
    data = tables.features(samples=samples)
    valid = data.splits["valid"]
    new = torch.tensor([user in ("u0", "u1") for user in data.user_ids["valid"]])
    assert torch.equal(valid["user"] == UNKNOWN, new)
    share = float(new.float().mean())
    assert 0.4 < share < 0.7
    train = data.splits["train"]
    hidden = train["user"] == UNKNOWN
    assert abs(float(hidden.float().mean()) - share) < 0.15
    for part, unknown in ((train, hidden), (valid, new)):
        assert not part["dense"][unknown][:, COLUMNS].any()
        assert (part["dense"][~unknown][:, COLUMNS[2]] > 0).any()
    again = tables.features(samples=samples.sample(fraction=1.0, shuffle=True, seed=1))
    by_id = dict(zip(again.sample_ids["train"], again.splits["train"]["user"].tolist(), strict=True))
    assert [by_id[key] for key in data.sample_ids["train"]] == train["user"].tolist()


def test_where_whole_users_are_split_no_user_is_known(tables):
    """Neither ids nor statistics of train rows: an evaluated user has none of them."""
    samples = tables.samples.with_columns(
        split=pl.when(pl.col("user_id").is_in(["u0", "u1"]))
        .then(pl.lit("valid"))
        .when(pl.col("user_id") == "u2")
        .then(pl.lit("test"))
        .otherwise(pl.lit("train"))
    )
    data = tables.features(samples=samples)
    assert data.vocabularies.users == []
    assert data.spec.n_users == 2
    for part in data.splits.values():
        assert (part["user"] == UNKNOWN).all()
        assert not part["dense"][:, COLUMNS].any()


def test_history_statistics_choose_the_columns(tables):
    whole, names = tables.features(), dense_names()
    for choice in ("recent", "none"):
        part = tables.features(history_statistics=choice)
        kept = dense_names(choice)
        assert part.spec.n_dense == len(kept) < len(names)
        for split, columns in part.splits.items():
            same = [name for name in kept if name != "neighbour_score"]
            assert torch.equal(
                columns["dense"][:, [kept.index(name) for name in same]],
                whole.splits[split]["dense"][:, [names.index(name) for name in same]],
            )
    recent = tables.features(history_statistics="recent").splits["test"]["dense"][:, -1]
    assert recent.any()
    assert not torch.equal(recent, whole.splits["test"]["dense"][:, -1])
    with pytest.raises(
        ValueError, match=r"ctr\.features\.history_statistics must be one of all, recent, none, got 'some'"
    ):
        FeatureSettings("some")


def test_chosen_items_say_nothing_of_how_kind_the_user_is(tables):
    """Lists without ratings: no like-rate, mean or affinity comes of them, whatever was chosen; neighbours do."""
    bare = pl.element().replace_strict({}, default=None, return_dtype=pl.Float32)
    samples = tables.samples.with_columns(pl.col("recent_ratings").list.eval(bare))
    histories = tables.histories.with_columns(pl.col("ratings").list.eval(bare))
    assert samples["recent_ratings"].list.len().equals(tables.samples["recent_ratings"].list.len())
    data, names = tables.features(samples=samples, histories=histories), dense_names()
    rated = tables.features()
    for split, columns in data.splits.items():
        assert torch.equal(columns["recent_mask"], rated.splits[split]["recent_mask"])
        mask = columns["recent_mask"]
        assert (columns["recent_ratings"][mask] == 0.75).all()  # a typical like
        for source in ("recent", "history"):
            for name in ("mean_rating", "like_share", "affinity", "rating_affinity", "residual", "year_affinity"):
                assert not columns["dense"][:, names.index(f"{source}_{name}")].any(), name
            for name in ("log_count", "overlap"):
                place = names.index(f"{source}_{name}")
                assert torch.equal(columns["dense"][:, place], rated.splits[split]["dense"][:, place])
    assert data.splits["test"]["dense"][:, names.index("neighbour_score")].any()


def test_a_single_rating_in_a_list_counts_alone(tables):
    """Of the list (no rating, 5, no rating) the mean is that of the 5 and the like-rate that of one like."""
    first = tables.samples.filter(pl.col("recent_items").list.len() == 4).head(1)
    ratings = pl.Series([[None, 5.0, None, None]], dtype=pl.List(pl.Float32))
    rows = pl.concat(
        [first.with_columns(recent_ratings=ratings), tables.samples.join(first, on="sample_id", how="anti")]
    )
    data = tables.features(samples=rows)
    place = data.sample_ids[first["split"][0]].index(first["sample_id"][0])
    dense = data.splits[first["split"][0]]["dense"][place]
    assert float(dense[dense_names().index("recent_mean_rating")]) == 1.0
    assert float(dense[dense_names().index("recent_like_share")]) == pytest.approx(2 * 2 / 3 - 1)


def test_arms_without_statistics_read_the_items_columns(tables):
    data = replace(tables.features(), without_statistics=frozenset(["none/no_stats"]))
    assert data.spec_for("none").n_dense == len(dense_names())
    assert data.spec_for("none/no_stats").n_dense == len(dense_names("none")) == 4
    assert torch.equal(data.dense("valid", "none/no_stats"), data.splits["valid"]["dense"][:, :4])


def test_the_nets_read_the_newest_part_of_a_recent_list(tables):
    """Lists of three cut to two: the features are those of a table that kept two, in the nets and in the statistics."""
    cut = FeatureSettings(recent_len=2).seen(tables.samples)
    whole = tables.samples.select("recent_items", "recent_ratings").rows()
    assert max(len(items) for items, _ in whole) > 2
    assert cut.select("recent_items", "recent_ratings").rows() == [
        (items[-2:], ratings[-2:]) for items, ratings in whole
    ]
    assert tables._replace(samples=cut).features().spec.recent_len == 2
    assert FeatureSettings().seen(tables.samples) is tables.samples
    with pytest.raises(ValueError, match=r"ctr\.features\.recent_len must be at least 1 or null, got 0"):
        FeatureSettings(recent_len=0)
