"""`Table` on files of a few lines: plain logs, and what is repaired and counted in them."""

from __future__ import annotations

import csv
import hashlib
import inspect
import re
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from table_files import (
    ABOUT,
    BOOK_COLUMNS,
    BOOKS,
    HEAD,
    LOG,
    books,
    build,
    put,
    quick,
    seen,
    triples,
    valid_rows,
    written,
)

from trackrec.interactions import (
    DataError,
    ItemColumns,
    RatingColumns,
    RatingSource,
    SampleRules,
    Table,
    TextFormat,
    UserColumns,
)
from trackrec.prompts.settings import PromptSettings
from trackrec.storage.schemas import SCHEMAS, to_arrow

# Plain logs


def test_a_csv_is_read_by_the_names_of_its_columns(tmp_path: Path) -> None:
    ratings = books(tmp_path, items=put(tmp_path / "books.csv", BOOKS), item_columns=ABOUT).read()
    assert ratings.items.rows() == [
        ("b1", "Bread, & Butter", ["Food", "Home"], 1999),
        ("b2", "Salt", [], None),
        ("b3", "Unread", ["Sea"], 2001),
    ]
    assert ratings.users.rows() == [("ann", []), ("bob", [])]
    assert ratings.interactions.rows() == [
        ("ann", "b1", 5.0, 30, 0),
        ("bob", "b2", 2.0, 20, 1),
        ("ann", "b2", 3.5, 10, 2),
    ]
    assert (ratings.splits, ratings.own_histories) == (None, None)
    assert ratings.counts == {
        "bad_rows": 0,
        "ratings_read": 3,
        "bad_item_rows": 0,
        "duplicate_items": 0,
        "items_without_title": 0,
        "ratings_of_unknown_items": 0,
        "duplicate_ratings": 0,
        "ratings_outside_core": 0,
        "users_without_row": 0,
        "items": 3,
        "users": 2,
        "ratings": 3,
    }


def test_frames_fit_the_tables(tmp_path: Path) -> None:
    for number, arguments in enumerate([{}, {"items": put(tmp_path / "books.csv", BOOKS), "item_columns": ABOUT}]):
        ratings = books(tmp_path / str(number), **arguments).read()
        for table in ("items", "users", "interactions"):
            frame = getattr(ratings, table)
            assert to_arrow(table, frame).schema == SCHEMAS[table]
            assert frame.columns == SCHEMAS[table].names


def test_titles_may_stand_in_the_log(tmp_path: Path) -> None:
    """Of an item's rows the first with a title tells it; of a user's rows the first."""
    log = "u,i,l,t,g,y,age,from\nann,a,1,,X,,31,Rome\nbob,a,0,Alpha,X|Y,1980,,Oslo\nann,b,1,,,,99,Bonn\n"
    source = Table(
        put(tmp_path / "log.csv", log),
        columns=RatingColumns(user="u", item="i", label="l"),
        item_columns=ItemColumns(title="t", attributes="g", year="y"),
        user_columns=UserColumns(attributes=["age", "from"]),
    )
    ratings = source.read()
    assert ratings.items.rows() == [("a", "Alpha", ["X", "Y"], 1980), ("b", "b", [], None)]
    assert ratings.users.rows() == [("ann", ["age 31", "Rome"]), ("bob", ["Oslo"])]
    assert ratings.counts["items_without_title"] == 1


@pytest.mark.parametrize(("yes", "no"), [("1", "0"), ("1.0", "0.0"), ("True", "false")])
def test_labels_are_ratings_of_one_and_zero(tmp_path: Path, yes: str, no: str) -> None:
    source = Table(
        put(tmp_path / "log.tsv", f"user_id\titem_id\tclick\na\tx\t{yes}\na\ty\t{no}\n"),
        columns=RatingColumns(label="click"),
        text=TextFormat(separator="\\t"),
    )
    assert triples(source.read()) == [("a", "x", 1.0), ("a", "y", 0.0)]
    assert source.threshold == 0.5
    with pytest.raises(DataError, match=r"want 4 fields|0 or 1 in 'click': line 2: 'a\\tx\\t2'"):
        Table(
            put(tmp_path / "bad.tsv", "user_id\titem_id\tclick\na\tx\t2\n"),
            columns=RatingColumns(label="click"),
            text=TextFormat(separator="\t"),
        ).read()


def test_without_a_timestamp_the_order_of_the_file_is_time(tmp_path: Path) -> None:
    log = "".join(f"u{n % 2},i{n},{n % 5}\n" for n in range(8))
    ratings = Table(
        put(tmp_path / "log.csv", log),
        columns=RatingColumns(user="1", item="2", rating="3"),
        text=TextFormat(header=False),
    ).read()
    assert ratings.interactions["timestamp"].to_list() == list(range(8))
    assert {row[4] for row in seen(build(ratings, valid=0.0, test=0.0))} == {"i0 i2", "i1 i3"}


SECOND = 1573463158  # 2019-11-11 09:05:58 UTC


@pytest.mark.parametrize(
    ("unit", "text", "second"),
    [
        ("s", f"{SECOND}", SECOND),
        ("s", f"{SECOND}.75", SECOND),
        ("ms", f"{SECOND}750", SECOND),
        ("us", f"{SECOND}750000", SECOND),
        ("iso", "2019-11-11T09:05:58Z", SECOND),
        ("iso", "2019-11-11 09:05:58", SECOND),
        ("iso", "2019-11-11 09:05:58 UTC", SECOND),
        ("iso", "2019-11-11T09:05:58.250+00:00", SECOND),
        ("iso", "2019-11-11T11:05:58+0200", SECOND),
        ("iso", "2019-11-11T11:05:58+02", SECOND),
        ("iso", "2019-11-11T09:05", SECOND - 58),
        ("iso", "2019-11-11", SECOND - 32758),
        ("%m/%d/%Y %I:%M:%S %p", "11/11/2019 9:05:58 AM", SECOND),
        ("%d.%m.%Y", "11.11.2019", SECOND - 32758),
        ("%d.%m.%Y %H:%M:%S %z", "11.11.2019 10:05:58 +0100", SECOND),
    ],
)
def test_times_become_seconds(tmp_path: Path, unit: str, text: str, second: int) -> None:
    log = f"reader,isbn,stars,when\nann,b1,5,{text}\n"
    assert books(tmp_path, log, time_unit=unit).read().interactions["timestamp"].to_list() == [second]


def test_parquet_parts_keep_their_types(tmp_path: Path) -> None:
    """Whole floats as ids are integers, dates and times need no unit, lists are lists."""
    when = [datetime(2019, 11, 11, 9, 5, 58, tzinfo=UTC), datetime(2019, 11, 11, 9, 5, 59, tzinfo=UTC)]
    for part, name in enumerate(("part-0.parquet", "part-1.parquet")):
        frame = pl.DataFrame({"reader": [1, 2], "isbn": [10.0, 11.0 + part], "stars": [4, 3], "when": when})
        (tmp_path / "log").mkdir(exist_ok=True)
        frame.write_parquet(tmp_path / "log" / name)
    put(tmp_path / "log" / "_SUCCESS", "")
    items = pl.DataFrame({"isbn": [10, 11, 12], "name": ["A", None, "C"], "genres": [["x", "y"], [], None]})
    items.write_parquet(tmp_path / "items.parquet")
    arguments = {
        "items": str(tmp_path / "items.parquet"),
        "item_columns": ItemColumns(title="name", attributes="genres"),
    }
    ratings = Table(str(tmp_path / "log"), columns=BOOK_COLUMNS, **arguments).read()
    assert ratings.interactions.rows() == [
        ("2", "11", 3.0, SECOND + 1, 1),
        ("1", "10", 4.0, SECOND, 2),
        ("2", "12", 3.0, SECOND + 1, 3),
    ]
    assert ratings.items.rows() == [("10", "A", ["x", "y"], None), ("11", "11", [], None), ("12", "C", [], None)]
    assert ratings.counts["duplicate_ratings"] == 1


def test_positions_are_kept_and_read_by_nothing(tmp_path: Path) -> None:
    """An empty cell is an unknown position; of a repeated rating the position of the one that stays."""
    log = "reader,isbn,stars,when,slot\n" + "".join(
        f"{user},{item},{stars},{when},{slot}\n"
        for user, item, stars, when, slot in [
            ("ann", "a", 5, 1, "1"), ("ann", "b", 1, 2, ""), ("ann", "c", 5, 3, "12.0"), ("ann", "a", 4, 4, " 7 "),
        ]
    )  # fmt: skip
    with_it, without = books(tmp_path, log, columns={"position": "slot"}).read(), books(tmp_path, log).read()
    assert with_it.interactions["position"].to_list() == [None, 12, 7]
    assert with_it.interactions.columns == [*SCHEMAS["interactions"].names, "position"]
    assert with_it.interactions.drop("position").equals(without.interactions)
    assert to_arrow("interactions", with_it.interactions).schema.field("position").type == pa.int32()
    for per in ("user", "sample"):
        assert [frame.rows() for frame in build(with_it, per=per)[:2]] == [
            frame.rows() for frame in build(without, per=per)[:2]
        ]


def test_a_glob_reads_files_by_name(tmp_path: Path) -> None:
    for name, user in (("b", "late"), ("a", "early")):
        put(tmp_path / "logs" / f"{name}.csv", f"reader,isbn,stars,when\n{user},x,1,5\n")
    ratings = Table(str(tmp_path / "logs" / "*.csv"), columns=BOOK_COLUMNS).read()
    assert ratings.interactions.select("user_id", "row").rows() == [("early", 0), ("late", 1)]


# What is repaired and counted


def test_items_without_a_title_are_called_by_their_id(tmp_path: Path) -> None:
    items = put(tmp_path / "items.csv", "isbn,name\nb1,  \nb2,Tom &amp;amp; &lt;Jerry&gt;\u00a0 \tX\nb2,Again\n")
    ratings = books(tmp_path, items=items, item_columns=ItemColumns(title="name")).read()
    assert ratings.items["title"].to_list() == ["b1", "Tom &amp; <Jerry> X"]
    assert (ratings.counts["items_without_title"], ratings.counts["duplicate_items"]) == (1, 1)


def test_duplicates_and_unknown_items_are_counted(tmp_path: Path) -> None:
    log = HEAD + "a,b1,1,20\na,b1,5,10\na,b9,5,1\nb,b1,3,5\nb,b1,4,5\n"
    ratings = books(tmp_path, log, items=put(tmp_path / "books.csv", BOOKS)).read()
    assert ratings.interactions.rows() == [("a", "b1", 1.0, 20, 0), ("b", "b1", 4.0, 5, 4)]
    counts = ratings.counts
    assert (counts["ratings_read"], counts["ratings_of_unknown_items"], counts["duplicate_ratings"]) == (5, 1, 2)
    with pytest.raises(DataError, match=r"holds none of the rated items: it has \['b1', 'b2', 'b3'\]"):
        books(tmp_path, HEAD + "a,x,1,1\n", items=str(tmp_path / "books.csv")).read()


def test_the_core_is_repeated_until_stable(tmp_path: Path) -> None:
    """Dropping item z leaves cid one rating, without which y has one."""
    pairs = ["ann w", "ann x", "bob w", "bob x", "cid y", "cid z", "ann y"]
    log = HEAD + "".join(f"{pair.replace(' ', ',')},5,{second}\n" for second, pair in enumerate(pairs))
    ratings = books(tmp_path, log, min_user_ratings=2, min_item_ratings=2).read()
    assert triples(ratings) == [("ann", "w", 5.0), ("ann", "x", 5.0), ("bob", "w", 5.0), ("bob", "x", 5.0)]
    assert ratings.counts["ratings_outside_core"] == 3
    assert (ratings.items["item_id"].to_list(), ratings.users["user_id"].to_list()) == (["w", "x"], ["ann", "bob"])
    with pytest.raises(DataError, match=r"min_user_ratings=5, .*min_item_ratings=1 leave none of 7 ratings"):
        books(tmp_path, log, min_user_ratings=5).read()


def test_a_user_with_one_rating_has_no_sample(tmp_path: Path) -> None:
    tables = build(books(tmp_path).read())
    assert {row[0] for row in seen(tables)} == {"ann"}
    assert tables.counts["users_without_samples"] == 1


def test_the_content_key_follows_the_bytes_of_every_file(tmp_path: Path) -> None:
    source = books(tmp_path, items=put(tmp_path / "more" / "books.csv", BOOKS))
    assert source.content_key() == {
        "log.csv": hashlib.sha256(LOG.encode()).hexdigest(),
        "more/books.csv": hashlib.sha256(BOOKS.encode()).hexdigest(),
    }


def test_every_argument_is_a_config_key(tmp_path: Path) -> None:
    train, test = put(tmp_path / "a.tsv", "1\tx\t5\tNo 1\n"), put(tmp_path / "b.tsv", "1\ty\t1\tNo 2\n")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--dataset", type=RatingSource)
    config = f"""
      dataset:
        class_path: trackrec.interactions.sources.table.Table
        init_args:
          ratings: {{train: {train}, test: {test}}}
          columns: {{user: "1", item: "2", rating: "3"}}
          item_columns: {{attributes: ["4"]}}
          text: {{separator: "\\t", header: false}}
          threshold: 2
    """
    source = parser.instantiate(parser.parse_string(config)).dataset
    assert source.threshold == 2.0
    ratings = source.read()
    assert ratings.items["attributes"].to_list() == [["No 1"], ["No 2"]]
    assert ratings.splits is not None
    assert ratings.splits.rows() == [(0, "train"), (1, "test")]


def test_the_documented_configs_are_valid() -> None:
    """All that a config names is checked without reading; unknown keys are errors."""
    text = inspect.cleandoc(Table.__doc__ or "")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--dataset", type=RatingSource)
    configs = [yaml.safe_load(textwrap.dedent(block)) for block in re.findall(r"::\n\n((?: {4}.*\n)+)", text)]
    assert len(configs) == 3
    for config in configs:
        dataset = config["dataset"]
        assert dataset["class_path"] == Table.__name__
        parser.instantiate(parser.parse_object({"dataset": dataset}))
        SampleRules(**config.get("samples", {}))
        PromptSettings(**config.get("prompts", {}))


# Any table of valid rows round-trips


@quick
@given(
    rows=valid_rows, separator=st.sampled_from(",\t;"), end=st.sampled_from(["\n", "\r\n"]), everything=st.booleans()
)
def test_valid_rows_round_trip(tmp_path: Path, rows: list, separator: str, end: str, everything: bool) -> None:
    text, _ = written(rows, separator, csv.QUOTE_ALL if everything else csv.QUOTE_MINIMAL, end)
    where = put(tmp_path / "log.csv", text)
    ratings = Table(
        where,
        columns=RatingColumns(rating="stars", timestamp="at"),
        item_columns=ItemColumns(title="note"),
        text=TextFormat(separator=separator),
    ).read()
    assert ratings.interactions.drop("row").rows() == [row[:4] for row in rows]
    titles = dict(ratings.items.select("item_id", "title").rows())
    for _, item, _, _, note in rows:
        notes = [" ".join(row[4].split()) for row in rows if row[1] == item]
        assert titles[item] == next((each for each in notes if each), item), note
