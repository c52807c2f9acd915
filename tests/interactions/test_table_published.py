"""Published splits and history lists, read by `Table` and replayed; the formats of MIND (news) and Last.fm (music)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_files import build, put, quick, seen, triples

from trackrec.interactions import (
    DataError,
    ItemColumns,
    RatingColumns,
    Ratings,
    Table,
    TextFormat,
    UserColumns,
    check_splits,
)
from trackrec.prompts.book import PromptBook
from trackrec.prompts.settings import PromptSettings


def test_given_splits_are_replayed(tmp_path: Path) -> None:
    log = "user_id,item_id,label,at,fold\nu,a,1,1,train\nu,b,0,2,Training\nu,c,1,3,DEV\nu,d,1,4,test\n"
    log += "u,b,1,5,val\nv,a,1,9,test\n"
    source = Table(put(tmp_path / "log.csv", log), columns=RatingColumns(label="label", timestamp="at", split="fold"))
    tables = build(source.read(), 0.5, protocol="given", per="sample")
    assert seen(tables) == [
        ("u", "b", 0, "train", "a", "a"),
        ("u", "c", 1, "valid", "a b", "a b"),
        ("u", "d", 1, "test", "a b c", "a b c"),
        ("u", "b", 1, "valid", "a b c d", "a b c d"),
    ]
    published = {name: tables.counts[f"published_{name}"] for name in ("train", "valid", "test")}
    assert published == {"train": 2, "valid": 2, "test": 2}
    per_user = build(source.read(), 0.5, protocol="given", history_len=2)
    assert [row[:4] for row in seen(per_user)] == [
        ("u", "c", 1, "valid"),
        ("u", "d", 1, "test"),
        ("u", "b", 1, "valid"),
    ]
    with pytest.raises(DataError, match=r"train, valid or test in 'fold': line 2: 'u,a,1,1,other'"):
        Table(
            put(tmp_path / "bad.csv", log.replace("train", "other")), columns=RatingColumns(label="label", split="fold")
        ).read()


def test_the_last_train_rows_validate_where_nothing_else_is_published(tmp_path: Path) -> None:
    """MIND publishes a train and a development part alone."""
    log = "user_id,item_id,label,at,fold\n" + "".join(f"u,i{n},{n % 2},{n},train\n" for n in range(1, 12))
    source = Table(
        put(tmp_path / "log.csv", log + "u,z,1,50,test\n"),
        columns=RatingColumns(label="label", timestamp="at", split="fold"),
    )
    tables = build(source.read(), 0.5, protocol="given", per="sample", valid=0.3)
    assert tables.samples.sort("timestamp")["split"].to_list() == ["train"] * 7 + ["valid"] * 3 + ["test"]


def test_a_split_of_one_label_is_an_error(tmp_path: Path) -> None:
    log = "user_id,item_id,label,at\n" + "".join(f"u,i{n},{n % 2},{n}\n" for n in range(1, 12))
    source = Table(put(tmp_path / "log.csv", log), columns=RatingColumns(label="label", timestamp="at"))
    check_splits(build(source.read(), 0.5, per="sample", valid=0.3).samples)
    for share, got in ((0.0, "none"), (0.1, "1 with one label")):
        with pytest.raises(DataError, match=rf"the split 'valid' needs samples of both labels, got {got}\. Change"):
            check_splits(build(source.read(), 0.5, per="sample", valid=share).samples)


def test_given_without_splits_names_both_keys(tmp_path: Path) -> None:
    ratings = Table(
        put(tmp_path / "log.csv", "user_id,item_id,label\nu,a,1\nu,b,0\n"), columns=RatingColumns(label="label")
    ).read()
    with pytest.raises(DataError, match=r"^samples.protocol is 'given', but .*Set dataset.init_args.columns.split to"):
        build(ratings, protocol="given")


def own(tmp_path: Path, log: str, **arguments: Any) -> Ratings:
    columns = RatingColumns(label="label", timestamp="at", history="past", split="fold")
    where = put(tmp_path / "log.csv", "user_id,item_id,label,at,past,fold\n" + log)
    return Table(where, **({"columns": columns} | arguments)).read()


def test_own_lists_are_history_and_recent_items(tmp_path: Path) -> None:
    ratings = own(tmp_path, "u,a,1,1,p q r,train\nu,b,0,2,p q r,test\nv,a,1,3,,test\nv,b,1,4,a p,train\n")
    assert sorted(ratings.items["item_id"]) == ["a", "b", "p", "q", "r"]
    rules = {"protocol": "given", "per": "sample", "max_history": 2, "recent_len": 1}
    tables = build(ratings, 0.5, **rules)
    assert seen(tables) == [
        ("u", "a", 1, "train", "q r", "r"),
        ("u", "b", 0, "test", "q r", "r"),
        ("v", "b", 1, "train", "a p", "p"),
    ]
    assert tables.histories["ratings"].to_list() == [[None, None], [None, None]]
    assert tables.samples["recent_ratings"].to_list() == [[None], [None], [None]]
    assert (tables.counts["short_histories"], tables.counts["future_history_items"]) == (1, 0)
    with pytest.raises(DataError, match=r"samples.per must be 'sample' where .*columns.history .*got 'user'"):
        build(ratings, 0.5, protocol="given")


def test_rows_without_a_published_list_have_an_empty_history(tmp_path: Path) -> None:
    """An empty list, a null one, one of which nothing is left, and (of a source's own making) no list at all."""
    log = pl.DataFrame(
        {"user_id": ["u", "u", "v", "v", "w"], "item_id": list("abaca"), "label": [1, 0, 1, 0, 1]}
        | {"at": [1, 2, 3, 4, 5], "past": [["p"], [], None, ["c"], [None]]},
        schema_overrides={"past": pl.List(pl.String)},
    )
    log.write_parquet(tmp_path / "log.parquet")
    source = Table(str(tmp_path / "log.parquet"), columns=RatingColumns(label="label", timestamp="at", history="past"))
    ratings = source.read()
    rules = {"per": "sample", "min_history": 0, "valid": 0.0, "test": 0.0}
    tables = build(ratings, 0.5, **rules)
    assert seen(tables) == [
        ("u", "a", 1, "train", "p", "p"),
        ("u", "b", 0, "train", "", ""),
        ("v", "a", 1, "train", "", ""),
        ("v", "c", 0, "train", "", ""),
        ("w", "a", 1, "train", "", ""),
    ]
    owners = tables.samples.join(tables.histories, on="history_id", suffix="_of_history")
    assert owners["user_id"].to_list() == owners["user_id_of_history"].to_list()
    assert tables.histories["history_id"].n_unique() == 4
    assert (tables.counts["short_histories"], tables.counts["without_history"]) == (0, 4)
    assert ratings.own_histories is not None
    fewer = ratings._replace(own_histories=ratings.own_histories.filter(pl.col("item_ids").list.len() > 0))
    assert seen(build(fewer, 0.5, **rules)) == seen(tables)
    log.with_columns(past=pl.lit([], pl.List(pl.Null))).write_parquet(tmp_path / "log.parquet")
    assert [row[4] for row in seen(build(source.read(), 0.5, **rules))] == [""] * 5


def test_own_lists_may_carry_ratings(tmp_path: Path) -> None:
    log = "user_id,item_id,stars,past,rates\nu,a,4,p|q,5|1.5\nu,b,2,,\n"
    columns, text = (
        RatingColumns(rating="stars", history="past", history_ratings="rates"),
        TextFormat(history_separator="|"),
    )
    ratings = Table(put(tmp_path / "log.csv", log), columns=columns, text=text).read()
    assert build(ratings, per="sample").histories["ratings"].to_list() == [[5.0, 1.5]]
    likes = Table(str(tmp_path / "log.csv"), columns=replace(columns, history_ratings=None), text=text).read()
    assert build(likes, per="sample").histories["ratings"].to_list() == [[None, None]]
    with pytest.raises(DataError, match=r"a rating for each item of a history: line 2: 'u,a,4,p\|q,5'"):
        Table(put(tmp_path / "bad.csv", log.replace("5|1.5", "5")), columns=columns, text=text).read()


def test_own_lists_hold_known_items_only(tmp_path: Path) -> None:
    items = put(tmp_path / "items.csv", "item_id\na\nb\np\n")
    ratings = own(tmp_path, "u,a,1,1,p x,train\nu,b,0,2,p x,test\n", items=items)
    assert ratings.counts["history_items_unknown"] == 1
    assert seen(build(ratings, 0.5, protocol="given", per="sample")) == [
        ("u", "a", 1, "train", "p", "p"),
        ("u", "b", 0, "test", "p", "p"),
    ]


def test_the_target_and_its_future_leave_its_own_list(tmp_path: Path) -> None:
    """b is in its own list; c comes later; d was rated before, so its second rating may have it; x has no record."""
    log = "u,d,1,1,,train\nu,b,0,5,b c d x,train\nu,c,1,6,b x,train\nu,d,1,7,c d,test\nw,e,1,5,c,test\n"
    tables = build(own(tmp_path, log), 0.5, protocol="given", per="sample")
    assert seen(tables) == [
        ("u", "b", 0, "train", "d x", "d x"),
        ("w", "e", 1, "test", "c", "c"),
        ("u", "c", 1, "train", "b x", "b x"),
        ("u", "d", 1, "test", "c d", "c d"),
    ]
    assert tables.counts["future_history_items"] == 2


_items = st.sampled_from("abcdef")
_rows = st.lists(
    st.tuples(
        st.sampled_from("uv"), _items, st.sampled_from("01"), st.integers(1, 9), st.lists(_items, max_size=4),
        st.sampled_from(["train", "valid", "test"]),
    ),
    min_size=1, max_size=14, unique_by=lambda row: (row[0], row[1], row[3], row[5]),
)  # fmt: skip


@quick
@given(rows=_rows, strict=st.booleans(), lists=st.booleans(), least=st.integers(0, 1))
def test_given_keeps_splits_and_shows_no_future(
    tmp_path: Path, rows: list, strict: bool, lists: bool, least: int
) -> None:
    rows = [*rows, ("z", "a", "1", 1, ["f"], "train"), ("z", "b", "1", 2, ["f"], "test")]
    log = "".join(f"{u},{i},{y},{at},{' '.join(past)},{fold}\n" for u, i, y, at, past, fold in rows)
    columns = RatingColumns(label="label", timestamp="at", split="fold", history="past" if lists else None)
    ratings = own(tmp_path, log, columns=columns)
    tables = build(ratings, 0.5, protocol="given", per="sample", strict_ties=strict, min_history=least)
    assert not least or (tables.histories["item_ids"].list.len() > 0).all()
    assert least or tables.samples.height == ratings.interactions.height
    published = {(u, i, at, number): fold for number, (u, i, _, at, _, fold) in enumerate(rows)}
    first: dict[tuple, tuple] = {}
    for u, i, at, number in sorted(published, key=lambda key: key[2:]):
        first.setdefault((u, i), (at, number))
    contents = {row[0]: row for row in tables.histories.iter_rows()}
    kept = ratings.interactions.join(ratings.splits, on="row").drop("rating").rows()
    assert sorted(kept) == sorted((*key, fold) for key, fold in published.items())
    for sample in tables.samples.iter_rows(named=True):
        u, i, at = sample["user_id"], sample["item_id"], sample["timestamp"]
        numbers = [key[3] for key, fold in published.items() if key[:3] == (u, i, at) and fold == sample["split"]]
        assert len(numbers) == 1
        _, owner, items, _ = contents[sample["history_id"]]
        assert owner == u
        for item in [*items, *sample["recent_items"]]:
            if (u, item) in first:
                when = first[u, item]
                assert when < (at, numbers[0])
                assert when[0] < at or not strict
            else:
                assert lists
                assert item in rows[numbers[0]][4]


# Formats of others

NEWS = (
    'N1\tsports\tgolf\tThe "Open" begins\tAbstract\thttp://a\t[]\t[]\n'
    "N2\tnews\tworld\tRain &amp; wind\t\thttp://b\t[]\t[]\n"
    'N3\tsports\tnfl\t"Huge\t\thttp://c\t[]\t[]\n'
)
MIND_TRAIN = (
    "1\tU1\t11/11/2019 9:05:58 AM\tN1 N2\tN3-1 N2-0\n"
    "2\tU2\t11/12/2019 6:11:30 PM\t\tN1-0 N2-1\n"
    "3\tU1\t11/13/2019 12:00:01 AM\tN1 N2\tN2-1 N4-0\n"
)
MIND_DEV = "1\tU1\t11/15/2019 8:55:22 AM\tN1 N2 N3\tN1-0 N2-1\n"
MIND: dict[str, Any] = {
    "columns": RatingColumns(user="2", timestamp="3", history="4", impressions="5"),
    "text": TextFormat(separator="\t", header=False, quote=None),
    "time_unit": "%m/%d/%Y %I:%M:%S %p",
}
MIND_ITEMS = ItemColumns(id="1", attributes=["2", "3"], title="4")


def mind(tmp_path: Path) -> Table:
    for name, text in (("train", MIND_TRAIN), ("dev", MIND_DEV)):
        put(tmp_path / f"MINDsmall_{name}" / "behaviors.tsv", text)
        put(
            tmp_path / f"MINDsmall_{name}" / "news.tsv",
            NEWS if name == "train" else NEWS + "N4\tnews\tus\tLate\t\t\t\t\n",
        )
    ratings = {"test": "MINDsmall_dev", "train": "MINDsmall_train"}
    where = {split: str(tmp_path / folder / "behaviors.tsv") for split, folder in ratings.items()}
    return Table(where, items=str(tmp_path / "MINDsmall_*" / "news.tsv"), item_columns=MIND_ITEMS, **MIND)


def test_mind_is_read_from_its_own_files(tmp_path: Path) -> None:
    source = mind(tmp_path)
    ratings = source.read()
    assert ratings.items["title"].to_list() == ['The "Open" begins', "Rain & wind", '"Huge', "Late"]
    assert ratings.items["attributes"].to_list()[0] == ["sports", "golf"]
    assert triples(ratings) == [
        ("U1", "N3", 1.0),
        ("U1", "N2", 0.0),
        ("U2", "N1", 0.0),
        ("U2", "N2", 1.0),
        ("U1", "N2", 1.0),
        ("U1", "N4", 0.0),
        ("U1", "N1", 0.0),
        ("U1", "N2", 1.0),
    ]
    assert ratings.interactions["timestamp"][0] == 1573463158
    assert ratings.counts["duplicate_items"] == 3
    tables = build(ratings, source.threshold, protocol="given", per="sample")
    # N1 of the first lists is first logged in the test part, and U2 has no list.
    assert seen(tables) == [
        ("U1", "N2", 1, "train", "N2", "N2"),
        ("U1", "N4", 0, "train", "N2", "N2"),
        ("U1", "N1", 0, "test", "N2 N3", "N2 N3"),
        ("U1", "N2", 1, "test", "N2 N3", "N2 N3"),
    ]
    assert (tables.counts["short_histories"], tables.counts["future_history_items"]) == (4, 8)


def test_no_prompt_on_news_speaks_of_films(tmp_path: Path) -> None:
    source = mind(tmp_path)
    ratings = source.read()
    tables = build(ratings, source.threshold, protocol="given", per="sample")
    words = PromptSettings("article", "articles", "reader", "was shown", "click", "clicked", "skipped")
    book = PromptBook(tables.histories, ratings.items, ratings.users, source.threshold, words)
    for history_id, target in tables.samples.select("history_id", "item_id").rows():
        for segments in (book.reccot_prompt(history_id), book.validator_prompt(history_id, "Likes sports.", target)):
            text = "".join(segments).lower()
            assert "article" in text
            assert "reader" in text
            assert not [word for word in ("film", "viewer", "movie", "watch", "rated") if word in text]
    assert "Rain & wind [news, world]: clicked" in book.history_text(tables.samples["history_id"][0])


def test_mind_impressions_must_be_labelled(tmp_path: Path) -> None:
    where = put(tmp_path / "behaviors.tsv", "1\tU1\t11/11/2019 9:05:58 AM\tN1\tN3 N2\n")
    with pytest.raises(DataError, match=r"has 1 bad line.*items as N1-1 N2-0.*: line 1: "):
        Table(where, **MIND).read()


def test_last_fm_plays_are_ratings(tmp_path: Path) -> None:
    plays = "u1\tm1\tBeyoncé\t120\nu1\t\tT. Rex\t3\nu2\tm1\tBeyoncé\t51\nu1\tm1\tBeyoncé\t7\nu2\tm3\tMúm\t50\n"
    users = "u1\tf\t22\tGermany\tFeb 1, 2007\nu2\t\t\tMexico\tMay 6, 2008\nu3\tm\t-1\tPeru\t\n"
    source = Table(
        put(tmp_path / "plays.tsv", plays),
        users=put(tmp_path / "profile.tsv", users),
        threshold=50,
        columns=RatingColumns(user="1", item="3", rating="4"),
        user_columns=UserColumns(attributes=["2", "3", "4"]),
        text=TextFormat(separator="\t", header=False, quote=None),
    )
    ratings = source.read()
    assert triples(ratings) == [
        ("u1", "T. Rex", 3.0),
        ("u2", "Beyoncé", 51.0),
        ("u1", "Beyoncé", 7.0),
        ("u2", "Múm", 50.0),
    ]
    assert ratings.items["title"].to_list() == ["Beyoncé", "T. Rex", "Múm"]
    assert ratings.users.rows() == [("u1", ["f", "22", "Germany"]), ("u2", ["Mexico"]), ("u3", ["m", "-1", "Peru"])]
    assert [row[:3] for row in seen(build(ratings, source.threshold))] == [("u1", "Beyoncé", 0), ("u2", "Múm", 0)]


def test_last_fm_logs_are_read_by_label(tmp_path: Path) -> None:
    """userid, timestamp, artist id, artist, track id, track: a log of plays has no dislikes, so the label is added."""
    log = "u1\t2009-05-04T23:08:57Z\ta1\tDeep Dish\t\tFlashdance\t1\nu1\t2009-05-04T13:54:10Z\t\tÓlafur\t\tMix\t0\n"
    source = Table(
        put(tmp_path / "log.tsv", log),
        time_unit="iso",
        columns=RatingColumns(user="1", item="4", label="7", timestamp="2"),
        text=TextFormat(separator="\t", header=False, quote=None),
    )
    assert source.read().interactions.rows() == [
        ("u1", "Deep Dish", 1.0, 1241478537, 0),
        ("u1", "Ólafur", 0.0, 1241445250, 1),
    ]
