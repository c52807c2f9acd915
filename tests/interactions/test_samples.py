"""Histories, samples and splits: literal tables for a log written by hand, then properties of random logs."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackrec.interactions import DataError, Ratings, SampleRules, SampleTables, build_samples
from trackrec.storage.parts import read_table, write_part
from trackrec.storage.schemas import SCHEMAS

quick = settings(max_examples=25, deadline=None, database=None)

COLUMNS = ["user_id", "item_id", "rating", "timestamp"]
# ann's c and d, and f and g, share a second; bob has two ratings, cid one.
LOG = [
    ("bob", "a", 4.0, 150),
    ("ann", "b", 2.0, 20),
    ("ann", "a", 5.0, 10),
    ("ann", "c", 4.0, 30),
    ("ann", "d", 1.0, 30),
    ("ann", "e", 3.0, 40),
    ("ann", "f", 4.0, 50),
    ("ann", "g", 2.0, 50),
    ("bob", "b", 5.0, 160),
    ("cid", "a", 3.0, 200),
]


def ratings_of(log: list[tuple[str, str, float, int]]) -> Ratings:
    rated = pl.DataFrame(log, schema=COLUMNS, orient="row").with_row_index("row")
    rated = rated.select(*COLUMNS[:2], pl.col("rating").cast(pl.Float32), "timestamp", pl.col("row").cast(pl.Int64))
    users = rated.select(pl.col("user_id").unique().sort()).with_columns(
        pl.lit([], pl.List(pl.String)).alias("attributes")
    )
    return Ratings(pl.DataFrame({"item_id": rated["item_id"].unique().sort()}), users, rated, {})


def build(log: list[tuple[str, str, float, int]], seed: int = 0, **rules: Any) -> SampleTables:
    return build_samples(ratings_of(log), SampleRules(**rules), threshold=3.0, seed=seed)


def shown(tables: SampleTables) -> list[tuple]:
    """(user, target, label, history, recent list, recent ratings) of every sample, in the table's order."""
    joined = tables.samples.join(tables.histories, on="history_id", how="left", maintain_order="left")
    columns = [joined[name].to_list() for name in ("user_id", "item_id", "label", "item_ids", "recent_items")]
    texts = zip(*columns, joined["recent_ratings"].to_list(), strict=True)
    return [(user, item, label, "".join(h), "".join(r), rates) for user, item, label, h, r, rates in texts]


def test_per_user_the_first_half_is_the_history() -> None:
    """Ann has 7: her history is the first 4, so d, its last, at second 30, ties with nothing labelled."""
    tables = build(LOG, recent_len=3)
    assert tables.histories.select("user_id", "item_ids", "ratings").rows() == [
        ("ann", ["a", "b", "c", "d"], [5.0, 2.0, 4.0, 1.0]),
        ("bob", ["a"], [4.0]),
    ]
    assert shown(tables) == [
        ("ann", "e", 0, "abcd", "bcd", [2.0, 4.0, 1.0]),
        ("ann", "f", 1, "abcd", "cde", [4.0, 1.0, 3.0]),
        ("ann", "g", 0, "abcd", "cde", [4.0, 1.0, 3.0]),
        ("bob", "b", 1, "a", "a", [4.0]),
    ]
    assert tables.counts == {
        "users": 3,
        "items": 7,
        "ratings": 10,
        "histories": 2,
        "samples": 4,
        "likes": 2,
        "users_without_samples": 1,
        "ties_dropped": 0,
        "train": 4,
        "valid": 0,
        "test": 0,
        "tune": 3,
        "reward": 1,
    }


def test_per_user_a_sample_in_the_second_of_its_history_is_dropped() -> None:
    tables = build(LOG, history_len=3)
    assert [row[1] for row in shown(tables)] == ["e", "f", "g"]
    assert tables.counts["ties_dropped"] == 1
    assert tables.counts["users_without_samples"] == 2
    loose = build(LOG, history_len=3, strict_ties=False, recent_len=2)
    assert [(row[1], row[4]) for row in shown(loose)] == [("d", "bc"), ("e", "cd"), ("f", "de"), ("g", "ef")]
    assert loose.counts["ties_dropped"] == 0


def test_max_history_and_threshold() -> None:
    tables = build(LOG, max_history=2, threshold=4.0)
    assert [row[:4] for row in shown(tables)] == [
        ("ann", "c", 0, "ab"),
        ("ann", "d", 0, "ab"),
        ("ann", "e", 0, "ab"),
        ("ann", "f", 0, "ab"),
        ("ann", "g", 0, "ab"),
        ("bob", "b", 1, "a"),
    ]


def test_per_sample_the_history_is_just_before_and_stored_once() -> None:
    tables = build(LOG, per="sample", history_len=2, recent_len=3, min_history=2)
    assert [row[:5] for row in shown(tables)] == [
        ("ann", "c", 1, "ab", "ab"),
        ("ann", "d", 0, "ab", "ab"),
        ("ann", "e", 0, "cd", "bcd"),
        ("ann", "f", 1, "de", "cde"),
        ("ann", "g", 0, "de", "cde"),
    ]
    assert tables.counts["histories"] == 3


def test_per_sample_a_second_without_enough_before_it_is_dropped() -> None:
    """c and d have two ratings before them, but b shares their second."""
    log = [("u", "a", 5.0, 1), ("u", "b", 4.0, 2), ("u", "c", 4.0, 2), ("u", "d", 4.0, 2), ("u", "e", 4.0, 3)]
    tables = build(log, per="sample", min_history=2)
    assert [row[:4] for row in shown(tables)] == [("u", "e", 1, "abcd")]
    assert tables.counts["ties_dropped"] == 2


def test_without_a_least_length_first_ratings_have_an_empty_history() -> None:
    """b and c share ann's first second; each user has an empty history of their own, stored once."""
    log = [("bob", "a", 2.0, 5), ("ann", "b", 5.0, 10), ("ann", "c", 1.0, 10), ("ann", "d", 4.0, 20)]
    tables = build(log, per="sample", min_history=0)
    assert shown(tables) == [
        ("bob", "a", 0, "", "", []),
        ("ann", "b", 1, "", "", []),
        ("ann", "c", 0, "", "", []),
        ("ann", "d", 1, "bc", "bc", [5.0, 1.0]),
    ]
    empty = tables.histories.filter(pl.col("item_ids").list.len() == 0)
    assert empty.select("user_id", "ratings").rows() == [("ann", []), ("bob", [])]
    assert empty["history_id"].n_unique() == 2
    assert tables.counts["without_history"] == 3
    assert "without_history" not in build(log, per="sample").counts


def test_per_user_a_single_rating_is_a_sample_without_a_history() -> None:
    tables = build(LOG, min_history=0, recent_len=3)
    assert shown(tables)[-2:] == [("bob", "b", 1, "a", "a", [4.0]), ("cid", "a", 0, "", "", [])]
    assert shown(tables)[:-1] == shown(build(LOG, recent_len=3))
    assert tables.counts["users_without_samples"] == 0
    assert tables.histories.filter(pl.col("user_id") == "cid").select("item_ids", "ratings").rows() == [([], [])]
    fixed = build(LOG, min_history=0, history_len=1)  # all histories have one rating
    assert fixed.samples["user_id"].unique().sort().to_list() == ["ann", "bob"]


def test_temporal_takes_the_end_and_users_are_whole() -> None:
    log = [(f"u{n % 10}", f"i{n}", 4.0, 1000 + n) for n in range(120)]
    tables = build(log, history_len=2, test=0.2)
    assert tables.samples["split"].to_list() == ["train"] * 70 + ["valid"] * 10 + ["test"] * 20
    users = (
        build(log, history_len=2, test=0.2, protocol="user").samples.group_by("split").agg(pl.col("user_id").n_unique())
    )
    assert dict(users.rows()) == {"train": 7, "valid": 1, "test": 2}


def test_the_user_split_follows_the_seed() -> None:
    log = [(f"u{n % 10}", f"i{n}", 4.0, 1000 + n) for n in range(40)]
    splits = [build(log, protocol="user", seed=seed).samples["split"].to_list() for seed in range(4)]
    assert splits[0] == build(log, protocol="user", seed=0).samples["split"].to_list()
    assert any(split != splits[0] for split in splits[1:])


def test_a_lone_train_row_tunes() -> None:
    tables = build([("u", "a", 5.0, 1), ("u", "b", 4.0, 2)], valid=0.0, test=0.0)
    assert tables.samples.select("split", "use").rows() == [("train", "tune")]


def test_the_tables_fit_their_schemas(tmp_path: Path) -> None:
    """An all-empty recent list keeps its type."""
    for case, log in enumerate([LOG, [("u", "a", 5.0, 1), ("u", "b", 4.0, 1)]]):
        tables = build(log, strict_ties=not case, recent_len=1)
        for name in ("histories", "samples"):
            frame = getattr(tables, name)
            write_part(tmp_path / str(case), name, frame)
            assert read_table(tmp_path / str(case), name, check_keys=True).rows() == frame.rows()
            assert frame.columns == SCHEMAS[name].names


def test_nothing_to_label_is_an_error() -> None:
    with pytest.raises(DataError, match=r"samples.history_len=30, samples.min_history=1 leave no sample of 10 ratings"):
        build(LOG, history_len=30)


def test_a_repeated_row_is_an_error() -> None:
    ratings = ratings_of([*LOG, ("bob", "b", 5.0, 160)])
    ratings = ratings._replace(interactions=ratings.interactions.with_columns(row=pl.lit(0, pl.Int64)))
    with pytest.raises(DataError, match=r"\(user_id, item_id, timestamp, row\) repeats"):
        build_samples(ratings, SampleRules(history_len=1), 3.0, 0)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"protocol": "temporl"}, r"samples.protocol must be one of .*'temporl'. Did you mean 'temporal'"),
        ({"per": "item"}, r"samples.per must be one of 'user', 'sample', got 'item'"),
        ({"threshold": math.nan}, r"samples.threshold must be a finite number or null, got nan"),
        ({"history_len": 0}, r"samples.history_len must be null or in 1..30, got 0"),
        ({"history_len": 31}, r"got 31. For longer histories raise samples.max_history"),
        ({"recent_len": 0}, r"samples.recent_len must be at least 1, got 0"),
        ({"min_history": 6, "history_len": 5}, r"samples.min_history must be in 0..5 .*got 6"),
        ({"min_history": -1}, r"samples.min_history must be in 0..30 .*got -1"),
        ({"test": 1.0}, r"samples.test must be a share in \[0, 1\), got 1.0"),
        ({"test": 0.5, "valid": 0.5}, r"samples.valid \+ samples.test must be below 1"),
    ],
)
def test_rules_name_the_key(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        SampleRules(**rules)


_rating = st.tuples(
    st.sampled_from(["u", "v", "w", "x"]),
    st.sampled_from([f"i{n}" for n in range(9)]),
    st.integers(1, 5).map(float),
    st.integers(100, 112),
)
# The tail makes sure that somebody has a sample.
_logs = st.lists(_rating, max_size=30, unique_by=lambda row: row[:2]).map(
    lambda log: [*log, ("z", "i0", 4.0, 90), ("z", "i1", 2.0, 95)]
)
_rules = st.fixed_dictionaries(
    {
        "per": st.sampled_from(["user", "sample"]),
        "protocol": st.sampled_from(["temporal", "user"]),
        "history_len": st.sampled_from([None, 1]),
        "max_history": st.integers(1, 6),
        "min_history": st.integers(0, 1),
        "recent_len": st.integers(1, 4),
        "strict_ties": st.booleans(),
        "valid": st.sampled_from([0.0, 0.2]),
        "test": st.sampled_from([0.1, 0.3]),
    }
)


@quick
@given(log=_logs, rules=_rules)
def test_nothing_of_the_target_or_its_future_is_seen(log: list, rules: dict) -> None:
    when = {row[:2]: (row[3], number) for number, row in enumerate(log)}
    tables = build(log, **rules)
    contents = {row[0]: row for row in tables.histories.iter_rows()}
    for sample in tables.samples.iter_rows(named=True):
        _, owner, items, _ = contents[sample["history_id"]]
        assert owner == sample["user_id"]
        target = when[sample["user_id"], sample["item_id"]]
        for item in [*items, *sample["recent_items"]]:
            seen = when[owner, item]
            assert seen < target
            assert seen[0] < target[0] or not rules["strict_ties"]
        recent = [when[owner, item] for item in sample["recent_items"]]
        assert recent == sorted(recent)


@quick
@given(log=_logs, rules=_rules, data=st.data())
def test_flipping_a_target_leaves_its_own_features(log: list, rules: dict, data: st.DataObject) -> None:
    before = build(log, **rules)
    place = data.draw(st.integers(0, before.samples.height - 1))
    target = before.samples.row(place, named=True)
    flipped = [
        (user, item, 6.0 - rating if (user, item) == (target["user_id"], target["item_id"]) else rating, time)
        for user, item, rating, time in log
    ]
    after = build(flipped, **rules)
    same = pl.all().exclude("label", "use")  # rows are dealt within their class
    assert after.samples.select(same).row(place) == before.samples.select(same).row(place)
    content = pl.col("history_id") == target["history_id"]
    assert after.histories.filter(content).rows() == before.histories.filter(content).rows()


def test_each_class_is_dealt_by_turns() -> None:
    """Five likes are three to tune and two to reward, three dislikes two and one; a class's only row tunes."""
    log = [("u", f"i{n}", 5.0 if n in (3, 5, 6, 8, 9) else 1.0, n) for n in range(11)]
    log += [("v", f"i{n}", 5.0 if n == 4 else 1.0, n) for n in range(6)]
    for seed in range(5):
        samples = build(log, history_len=3, valid=0.0, test=0.0, seed=seed).samples
        dealt = samples.group_by("user_id", "label", "use").len().sort("user_id", "label", "use").rows()
        assert dealt == [
            ("u", 0, "reward", 1),
            ("u", 0, "tune", 2),
            ("u", 1, "reward", 2),
            ("u", 1, "tune", 3),
            ("v", 0, "reward", 1),
            ("v", 0, "tune", 1),
            ("v", 1, "tune", 1),
        ]


@quick
@given(log=_logs, rules=_rules, seed=st.integers(0, 9))
def test_splits_and_uses_are_disjoint(log: list, rules: dict, seed: int) -> None:
    samples = build(log, seed=seed, **rules).samples
    assert samples["sample_id"].is_unique().all()
    parts = [samples.filter(pl.col("split") == name) for name in ("train", "valid", "test")]
    assert sum(part.height for part in parts) == samples.height
    if rules["protocol"] == "temporal":
        assert pl.concat(parts)["sample_id"].to_list() == samples["sample_id"].to_list()
        assert samples["timestamp"].is_sorted()
    else:
        users = [set(part["user_id"]) for part in parts]
        assert sum(map(len, users)) == samples["user_id"].n_unique()
    assert set(parts[0]["use"]) <= {"tune", "reward"}
    assert set(pl.concat(parts[1:])["use"]) <= {""}
    for (_,), rows in parts[0].group_by("history_id"):
        tuned, rewarded = (rows.filter(pl.col("use") == use) for use in ("tune", "reward"))
        assert not set(tuned["sample_id"]) & set(rewarded["sample_id"])
        for label in (0, 1):
            assert (tuned["label"] == label).sum() - (rewarded["label"] == label).sum() in (0, 1)


@quick
@given(log=_logs, rules=_rules, shuffle=st.randoms(use_true_random=False))
def test_the_order_of_the_frame_does_not_matter(log: list, rules: dict, shuffle) -> None:
    ratings = ratings_of(log)
    order = list(range(ratings.interactions.height))
    shuffle.shuffle(order)
    shuffled = ratings._replace(interactions=ratings.interactions[order])
    one, other = (build_samples(each, SampleRules(**rules), 3.0, 5) for each in (ratings, shuffled))
    assert one.samples.rows() == other.samples.rows()
    assert one.histories.rows() == other.histories.rows()
    assert one.counts == other.counts


@quick
@given(log=_logs, least=st.integers(0, 1))
def test_equal_histories_are_stored_once(log: list, least: int) -> None:
    tables = build(log, per="sample", min_history=least)
    contents = [(user, tuple(items), tuple(rates)) for _, user, items, rates in tables.histories.iter_rows()]
    assert len(set(contents)) == len(contents)
    assert set(tables.samples["history_id"]) == set(tables.histories["history_id"])


def test_a_rating_equal_to_a_threshold_that_float32_rounds_is_no_like() -> None:
    """.8 as float32 lies above .8: labels, texts and features must not differ about it."""
    from types import SimpleNamespace
    from typing import Any

    from trackrec.recipe.tables import like_threshold

    run: Any = SimpleNamespace(samples=SampleRules(threshold=0.8), dataset=SimpleNamespace(threshold=3.0))
    threshold = like_threshold(run)
    stored = pl.Series([0.6, 0.8, 1.0], dtype=pl.Float32)
    assert (stored.to_numpy().astype(np.float64) - threshold > 0).tolist() == [False, False, True]
    assert (stored > threshold).to_list() == [False, False, True]
    assert [rating > threshold for rating in stored.to_list()] == [False, False, True]
