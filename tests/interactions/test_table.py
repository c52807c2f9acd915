"""`Table` on files of a few lines: plain logs, and all that can be wrong in them."""

from __future__ import annotations

import csv
import hashlib
import inspect
import io
import re
import textwrap
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from table_files import build, put, quick, seen, triples

from trackrec.interactions import DataError, RatingSource, SampleRules
from trackrec.interactions import files as room
from trackrec.interactions.table import Table
from trackrec.prompts import PromptSettings
from trackrec.tables import SCHEMAS, to_arrow

LOG = "reader,isbn,stars,when\nann,b1,5,30\nbob,b2,2,20\nann,b2,3.5,10\n"
BOOKS = 'isbn,name,genres,published\nb1,"Bread, &amp;  Butter",Food|Home,1999\nb2,Salt,,\nb3,Unread,Sea,2001-05-06\n'
BOOK_COLUMNS = {"user": "reader", "item": "isbn", "rating": "stars", "timestamp": "when"}
ABOUT = {"title": "name", "attributes": "genres", "year": "published"}


def books(tmp_path: Path, log: str | bytes = LOG, **arguments: Any) -> Table:
    where = put(tmp_path / "log.csv", log)
    return Table(where, **(BOOK_COLUMNS | arguments))


# Plain logs


def test_a_csv_is_read_by_the_names_of_its_columns(tmp_path: Path) -> None:
    ratings = books(tmp_path, items=put(tmp_path / "books.csv", BOOKS), **ABOUT).read()
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
    for number, arguments in enumerate([{}, {"items": put(tmp_path / "books.csv", BOOKS), **ABOUT}]):
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
        user="u", item="i", label="l", title="t", attributes="g", year="y", user_attributes=["age", "from"],
    )  # fmt: skip
    ratings = source.read()
    assert ratings.items.rows() == [("a", "Alpha", ["X", "Y"], 1980), ("b", "b", [], None)]
    assert ratings.users.rows() == [("ann", ["age 31", "Rome"]), ("bob", ["Oslo"])]
    assert ratings.counts["items_without_title"] == 1


@pytest.mark.parametrize(("yes", "no"), [("1", "0"), ("1.0", "0.0"), ("True", "false")])
def test_labels_are_ratings_of_one_and_zero(tmp_path: Path, yes: str, no: str) -> None:
    source = Table(
        put(tmp_path / "log.tsv", f"user_id\titem_id\tclick\na\tx\t{yes}\na\ty\t{no}\n"), separator="\\t", label="click"
    )
    assert triples(source.read()) == [("a", "x", 1.0), ("a", "y", 0.0)]
    assert source.threshold == 0.5
    with pytest.raises(DataError, match=r"want 4 fields|0 or 1 in 'click': line 2: 'a\\tx\\t2'"):
        Table(put(tmp_path / "bad.tsv", "user_id\titem_id\tclick\na\tx\t2\n"), separator="\t", label="click").read()


def test_without_a_timestamp_the_order_of_the_file_is_time(tmp_path: Path) -> None:
    log = "".join(f"u{n % 2},i{n},{n % 5}\n" for n in range(8))
    ratings = Table(put(tmp_path / "log.csv", log), header=False, user="1", item="2", rating="3").read()
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


def test_milliseconds_taken_for_seconds_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"a time \(dataset.init_args.time_unit: s\) in 'when': line 2: 'a,b,5,1573463158000'"
    ):
        books(tmp_path, "reader,isbn,stars,when\na,b,5,1573463158000\n").read()


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
    arguments = {"items": str(tmp_path / "items.parquet"), "title": "name", "attributes": "genres"}
    ratings = Table(str(tmp_path / "log"), **BOOK_COLUMNS, **arguments).read()
    assert ratings.interactions.rows() == [
        ("2", "11", 3.0, SECOND + 1, 1),
        ("1", "10", 4.0, SECOND, 2),
        ("2", "12", 3.0, SECOND + 1, 3),
    ]
    assert ratings.items.rows() == [("10", "A", ["x", "y"], None), ("11", "11", [], None), ("12", "C", [], None)]
    assert ratings.counts["duplicate_ratings"] == 1


def test_a_glob_reads_files_by_name(tmp_path: Path) -> None:
    for name, user in (("b", "late"), ("a", "early")):
        put(tmp_path / "logs" / f"{name}.csv", f"reader,isbn,stars,when\n{user},x,1,5\n")
    ratings = Table(str(tmp_path / "logs" / "*.csv"), **BOOK_COLUMNS).read()
    assert ratings.interactions.select("user_id", "row").rows() == [("early", 0), ("late", 1)]


# What is missing


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("user", "raeder", r"Did you mean 'reader'\?"),
        ("item", "isbm", r"Did you mean 'isbn'\?"),
        ("rating", "star", r"Did you mean 'stars'\?"),
        ("timestamp", "whem", r"Did you mean 'when'\?"),
        ("split", "fold", r" \['reader', 'isbn', 'stars', 'when'\]\.$"),
        ("history", "past", ""),
        ("title", "name", ""),
        ("attributes", "genres", ""),
        ("year", "published", ""),
        ("user_attributes", ["age"], ""),
    ],
)
def test_a_missing_column_is_named_by_its_key(tmp_path: Path, key: str, value: Any, hint: str) -> None:
    with pytest.raises(
        DataError, match=rf"^dataset.init_args.{key} names no column of .*log.csv: got .*it has.*{hint}"
    ):
        books(tmp_path, **{key: value}).read()
    frame = pl.read_csv(tmp_path / "log.csv")
    frame.write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match=rf"^dataset.init_args.{key} names no column of .*log.parquet"):
        Table(str(tmp_path / "log.parquet"), **(BOOK_COLUMNS | {key: value})).read()


def test_missing_columns_of_items_and_users_are_named(tmp_path: Path) -> None:
    items, users = put(tmp_path / "items.csv", "id,name\nb1,A\n"), put(tmp_path / "users.csv", "id,age\nann,3\n")
    with pytest.raises(DataError, match=r"^dataset.init_args.item_id names no column of .*items.csv: got 'isbn'"):
        books(tmp_path, items=items).read()
    with pytest.raises(DataError, match=r"^dataset.init_args.user_id names no column of .*users.csv: got 'reader'"):
        books(tmp_path, users=users).read()
    ratings = books(tmp_path, items=items, item_id="id", users=users, user_id="id", user_attributes=["age"]).read()
    assert ratings.users.rows() == [("ann", ["age 3"])]
    assert ratings.counts["ratings_of_unknown_items"] == 2


def test_a_wrong_separator_or_header_is_guessed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Is dataset.init_args.separator right\?"):
        books(tmp_path, separator=";").read()
    with pytest.raises(DataError, match=r"it has \['1', '2', '3', '4'\]. With dataset.init_args.header: false columns"):
        books(tmp_path, header=False).read()


def test_missing_files_are_named(tmp_path: Path) -> None:
    put(tmp_path / "ratings.csv", LOG)
    with pytest.raises(
        DataError, match=r"^dataset.init_args.ratings: .*rating.csv': no such file. Did you mean .*ratings.csv'\?"
    ):
        Table(str(tmp_path / "rating.csv"), rating="stars").read()
    with pytest.raises(DataError, match=r"^dataset.init_args.ratings: .*no \*.parquet part"):
        Table(str(tmp_path), rating="stars").read()
    with pytest.raises(DataError, match=r"^dataset.init_args.items: .*no file that fits the glob"):
        Table(str(tmp_path / "ratings.csv"), items=str(tmp_path / "*.tsv"), **BOOK_COLUMNS).content_key()
    with pytest.raises(DataError, match=r"^dataset.init_args.ratings.test: .*no such file"):
        Table({"train": str(tmp_path / "ratings.csv"), "test": str(tmp_path / "no.csv")}, **BOOK_COLUMNS).read()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"exactly one of rating, label and impressions must name a column, got none"),
        ({"rating": "a", "label": "b"}, r"got \['rating', 'label'\]"),
        ({"rating": "a", "separator": "::"}, r"dataset.init_args.separator must be one character, got '::'"),
        ({"rating": "a", "quote": ""}, r"dataset.init_args.quote must be one character, got ''"),
        ({"rating": "a", "history_separator": ""}, r"dataset.init_args.history_separator must not be empty"),
        ({"rating": "a", "time_unit": "sec"}, r"dataset.init_args.time_unit must be 's', .*got 'sec'"),
        ({"rating": "a", "time_unit": "%Y %H"}, r"dataset.init_args.time_unit must be 's', .*got '%Y %H'"),
        ({"rating": "a", "bad_rows": "drpo"}, r"dataset.init_args.bad_rows must be one of .*Did you mean 'drop'\?"),
        ({"rating": "a", "min_item_ratings": 0}, r"dataset.init_args.min_item_ratings must be at least 1"),
        ({"rating": "a", "threshold": float("nan")}, r"dataset.init_args.threshold must be a finite number, got nan"),
        ({"label": "a", "threshold": 1.0}, r"dataset.init_args.threshold must be in \[0, 1\) for labels, got 1.0"),
        ({"rating": "a", "history_ratings": "h"}, r"history_ratings needs dataset.init_args.history"),
    ],
)
def test_arguments_are_checked_without_reading(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Table("nowhere.csv", **arguments)


def test_split_files_are_checked_without_reading() -> None:
    with pytest.raises(DataError, match=r"ratings: a split must be one of 'train', 'valid', 'test', got 'tests'. Did"):
        Table({"tests": "a.csv"}, rating="r")
    with pytest.raises(DataError, match=r"split must be null where dataset.init_args.ratings names the files"):
        Table({"test": "a.csv"}, rating="r", split="fold")


# Bad rows


HEAD = "reader,isbn,stars,when\n"


@pytest.mark.parametrize(
    ("log", "line", "text"),
    [
        (HEAD + "a,b,five,1\n", 2, "a,b,five,1"),
        (HEAD + "\n\na,b,5,1\n  \na,c,nan,1\n", 6, "a,c,nan,1"),
        (HEAD + "a,b,5,1\r\na,c,1e39,1\r\n", 3, "a,c,1e39,1"),
        (HEAD + "a,b,5,soon\n", 2, "a,b,5,soon"),
        (HEAD + "a,b,5,1e300\n", 2, "a,b,5,1e300"),
        (HEAD + ",b,5,1\n", 2, ",b,5,1"),
        (HEAD + "a, ,5,1\n", 2, "a, ,5,1"),
        (HEAD + "a,b,5\n", 2, "a,b,5"),
        (HEAD + "a,b,5,1,9\n", 2, "a,b,5,1,9"),
        (HEAD + "a,b,5,\n", 2, "a,b,5,"),
        (HEAD + '"a\n\na",b,5,1\na,b,x,1\n', 5, "a,b,x,1"),
        (HEAD + 'a,"b"c,5,1\n', 2, "a stray quotation mark"),
    ],
)
def test_a_bad_row_is_named_by_its_line_or_dropped_and_counted(tmp_path: Path, log: str, line: int, text: str) -> None:
    where = rf"^dataset.init_args.ratings: .*log.csv has 1 bad line\(s\), want .*: line {line}: '{text}'\. Correct"
    with pytest.raises(DataError, match=where.replace("+", r"\+")):
        books(tmp_path, log).read()
    ratings = books(tmp_path, log + "z,z,1,2\n", bad_rows="drop").read()
    assert ratings.counts["bad_rows"] == 1
    assert triples(ratings)[-1] == ("z", "z", 1.0)


def test_only_the_first_bad_rows_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_CHUNK_ROWS", 2)
    log = HEAD + "a,b,5,1\nx,x,x,1\nshort\n" + "x,x,x,2\n" * 6 + "a,b\n"
    with pytest.raises(
        DataError, match=r"has 9 bad .*: line 3: 'x,x,x,1'; line 4: 'short'; line 5: 'x,x,x,2'; and 6 more"
    ):
        books(tmp_path, log).read()
    ratings = books(tmp_path, log, bad_rows="drop").read()
    assert (ratings.counts["bad_rows"], triples(ratings)) == (9, [("a", "b", 5.0)])


def test_bad_rows_of_parquet_are_named_by_number(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"reader": ["a", None, "c"], "isbn": [1.0, 2.0, 2.5], "stars": [1.0, 2.0, 3.0], "when": [1, 2, 3]}
    )
    frame.write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match=r"has 2 bad row\(s\), .*: row 2: 'None, 2.0, 2.0, 2'; row 3: 'c, 2.5, 3.0, 3'"):
        Table(str(tmp_path / "log.parquet"), **BOOK_COLUMNS).read()
    ratings = Table(str(tmp_path / "log.parquet"), **BOOK_COLUMNS, bad_rows="drop").read()
    assert (ratings.counts["bad_rows"], triples(ratings)) == (2, [("a", "1", 1.0)])


def test_bad_rows_of_items_are_named(tmp_path: Path) -> None:
    items = put(tmp_path / "items.csv", "isbn,name,published\nb1,A,1999\n,B,\nb2,C,long ago\n")
    with pytest.raises(DataError, match=r"^dataset.init_args.items: .*items.csv has 2 bad .*line 3: ',B,'; line 4"):
        books(tmp_path, items=items, title="name", year="published").read()
    counts = books(tmp_path, items=items, title="name", year="published", bad_rows="drop").read().counts
    assert (counts["bad_item_rows"], counts["ratings_of_unknown_items"]) == (2, 2)


def test_a_quote_that_never_closes_is_an_error_even_where_bad_rows_are_dropped(tmp_path: Path) -> None:
    """Dropping it would drop the rest of the file."""
    log = HEAD + 'a,b,5,1\na,"b,5,1\n' + "a,c,5,1\n" * 9
    for bad_rows in ("error", "drop"):
        with pytest.raises(
            DataError, match=r"log.csv line 3: a quotation mark opens there and never closes.*quote to null"
        ):
            books(tmp_path, log, bad_rows=bad_rows).read()
    assert books(tmp_path, log, quote=None).read().counts["ratings_read"] == 11


def test_lines_swallowed_by_a_quote_are_counted_each(tmp_path: Path) -> None:
    log = HEAD + 'a,"b,5,1\na,c,5,1\na,"d,5,1\nz,z,1,1\n'
    ratings = books(tmp_path, log, bad_rows="drop").read()
    assert (ratings.counts["bad_rows"], triples(ratings)) == (3, [("z", "z", 1.0)])


def test_text_that_is_not_utf_8_is_latin_1(tmp_path: Path) -> None:
    log = "reader,isbn,stars,when\nJosé,b1,5,1\n"
    assert triples(books(tmp_path / "a", log.encode("latin-1")).read()) == [("José", "b1", 5.0)]
    assert triples(books(tmp_path / "b", b"\xef\xbb\xbf" + log.encode()).read()) == [("José", "b1", 5.0)]
    with pytest.raises(DataError, match=r"is UTF-16 text. Save it as UTF-8"):
        books(tmp_path / "c", log.encode("utf-16")).read()
    with pytest.raises(DataError, match=r"log.csv.gz is compressed. Unpack it first"):
        Table(put(tmp_path / "log.csv.gz", b"\x1f\x8b"), **BOOK_COLUMNS).read()


def test_a_truncated_parquet_part_is_named(tmp_path: Path) -> None:
    for part in range(2):
        pl.DataFrame({"reader": ["a"], "isbn": ["b"], "stars": [1], "when": [part]}).write_parquet(
            tmp_path / f"{part}.parquet"
        )
    whole = (tmp_path / "1.parquet").read_bytes()
    for cut in (0, 5, len(whole) // 2, len(whole) - 1):
        (tmp_path / "1.parquet").write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"^dataset.init_args.ratings: .*1.parquet can't be read as Parquet"):
            Table(str(tmp_path), **BOOK_COLUMNS).read()


@pytest.mark.parametrize(("log", "message"), [("", "is empty"), ("\n \n", "is empty"), (HEAD, "holds no ratings")])
def test_an_empty_log_is_an_error(tmp_path: Path, log: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"^dataset.init_args.ratings: .*log.csv {message}"):
        books(tmp_path, log).read()


# What is repaired and counted


def test_items_without_a_title_are_called_by_their_id(tmp_path: Path) -> None:
    items = put(tmp_path / "items.csv", "isbn,name\nb1,  \nb2,Tom &amp;amp; &lt;Jerry&gt;\u00a0 \tX\nb2,Again\n")
    ratings = books(tmp_path, items=items, title="name").read()
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
    from jsonargparse import ArgumentParser

    train, test = put(tmp_path / "a.tsv", "1\tx\t5\tNo 1\n"), put(tmp_path / "b.tsv", "1\ty\t1\tNo 2\n")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--dataset", type=RatingSource)
    config = f"""
      dataset:
        class_path: trackrec.interactions.table.Table
        init_args:
          ratings: {{train: {train}, test: {test}}}
          separator: "\\t"
          header: false
          user: "1"
          item: "2"
          rating: "3"
          attributes: ["4"]
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
    configs = [yaml.safe_load(textwrap.dedent(block)) for block in re.findall(r"::\n\n((?: {4}.*\n)+)", text)]
    assert len(configs) == 3
    for config in configs:
        dataset = config["dataset"]
        assert dataset["class_path"] == Table.__name__
        Table(**dataset["init_args"])
        SampleRules(**config.get("samples", {}))
        PromptSettings(**config.get("prompts", {}))


# Any table of valid rows round-trips; any corrupted cell is named or counted

_name = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp")), min_size=1, max_size=6)
_valid = st.lists(
    st.tuples(_name, _name, st.floats(-1e6, 1e6, width=32), st.integers(0, 10**10), st.text("a \"',;|\n", max_size=6)),
    min_size=1, max_size=12, unique_by=lambda row: row[:2],
)  # fmt: skip


def written(rows: list, separator: str, quoting: Any = csv.QUOTE_MINIMAL, end: str = "\n") -> tuple[str, list[int]]:
    """The file, and the line on which each row begins."""
    file, lines = io.StringIO(), []
    writer = csv.writer(file, delimiter=separator, quoting=quoting, lineterminator=end)
    for row in [("user_id", "item_id", "stars", "at", "note"), *rows]:
        lines.append(file.getvalue().count("\n") + 1)
        writer.writerow(row)
    return file.getvalue(), lines[1:]


@quick
@given(rows=_valid, separator=st.sampled_from(",\t;"), end=st.sampled_from(["\n", "\r\n"]), everything=st.booleans())
def test_valid_rows_round_trip(tmp_path: Path, rows: list, separator: str, end: str, everything: bool) -> None:
    text, _ = written(rows, separator, csv.QUOTE_ALL if everything else csv.QUOTE_MINIMAL, end)
    where = put(tmp_path / "log.csv", text)
    ratings = Table(where, separator=separator, rating="stars", timestamp="at", title="note").read()
    assert ratings.interactions.drop("row").rows() == [row[:4] for row in rows]
    titles = dict(ratings.items.select("item_id", "title").rows())
    for _, item, _, _, note in rows:
        notes = [" ".join(row[4].split()) for row in rows if row[1] == item]
        assert titles[item] == next((each for each in notes if each), item), note


_corruptions = [
    (0, ""), (0, " "), (1, ""), (2, ""), (2, "x"), (2, "3,5"), (2, "nan"), (2, "inf"), (2, "1e99"),
    (3, ""), (3, "soon"), (3, "1e20"), (3, "-inf"),
]  # fmt: skip


@quick
@given(rows=_valid, data=st.data())
def test_a_corrupted_cell_is_named_or_counted(tmp_path: Path, rows: list, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(rows) - 1))
    column, cell = data.draw(st.sampled_from(_corruptions))
    broken = list(rows[place])
    broken[column] = cell
    text, lines = written([*rows[:place], broken, *rows[place + 1 :], ("z z", "z", 1, 1, "")], ",")
    where = put(tmp_path / "log.csv", text)
    with pytest.raises(DataError, match=rf"has 1 bad line.*: line {lines[place]}: "):
        Table(where, rating="stars", timestamp="at").read()
    ratings = Table(where, rating="stars", timestamp="at", bad_rows="drop").read()
    assert ratings.counts["bad_rows"] == 1
    kept = [*rows[:place], *rows[place + 1 :]]
    assert ratings.interactions.drop("row").rows() == [*[row[:4] for row in kept], ("z z", "z", 1.0, 1)]


@quick
@given(rows=_valid, data=st.data())
def test_a_line_cut_short_is_named_or_counted(tmp_path: Path, rows: list, data: st.DataObject) -> None:
    rows = [(*row[:4], "note") for row in rows]
    place = data.draw(st.integers(0, len(rows) - 1))
    keep = data.draw(st.integers(1, 4))
    text, lines = written([*rows[:place], rows[place][:keep], *rows[place + 1 :]], ",")
    where = put(tmp_path / "log.csv", text)
    with pytest.raises(DataError, match=rf"has 1 bad line.*: line {lines[place]}: "):
        Table(where, rating="stars", timestamp="at").read()
