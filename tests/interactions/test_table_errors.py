"""`Table` on files that lack something or hold what can't be read: each case is one clear error or a counted drop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_files import BOOK_COLUMNS, HEAD, LOG, books, put, quick, triples, valid_rows, written

from trackrec.interactions import DataError, ItemColumns, RatingColumns, Table, TextFormat, UserColumns
from trackrec.interactions.sources import delimited as room

GROUPS: dict[str, type] = {
    "columns": RatingColumns,
    "item_columns": ItemColumns,
    "user_columns": UserColumns,
    "text": TextFormat,
}

# What is missing


@pytest.mark.parametrize(
    ("group", "key", "value", "hint"),
    [
        ("columns", "user", "raeder", r"Did you mean 'reader'\?"),
        ("columns", "item", "isbm", r"Did you mean 'isbn'\?"),
        ("columns", "rating", "star", r"Did you mean 'stars'\?"),
        ("columns", "timestamp", "whem", r"Did you mean 'when'\?"),
        ("columns", "split", "fold", r" \['reader', 'isbn', 'stars', 'when'\]\.$"),
        ("columns", "history", "past", ""),
        ("columns", "position", "slot", ""),
        ("item_columns", "title", "name", ""),
        ("item_columns", "attributes", "genres", ""),
        ("item_columns", "year", "published", ""),
        ("user_columns", "attributes", ["age"], ""),
    ],
)
def test_a_missing_column_is_named_by_its_key(tmp_path: Path, group: str, key: str, value: Any, hint: str) -> None:
    groups = {"columns": BOOK_COLUMNS, "item_columns": ItemColumns(), "user_columns": UserColumns()}
    arguments: Any = groups | {group: replace(groups[group], **{key: value})}  # type: ignore[type-var]
    said = rf"^dataset.init_args.{group}.{key} names no column of"
    with pytest.raises(DataError, match=rf"{said} .*log.csv: got .*it has.*{hint}"):
        Table(put(tmp_path / "log.csv", LOG), **arguments).read()
    pl.read_csv(tmp_path / "log.csv").write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match=rf"{said} .*log.parquet"):
        Table(str(tmp_path / "log.parquet"), **arguments).read()


def test_missing_columns_of_items_and_users_are_named(tmp_path: Path) -> None:
    items, users = put(tmp_path / "items.csv", "id,name\nb1,A\n"), put(tmp_path / "users.csv", "id,age\nann,3\n")
    with pytest.raises(DataError, match=r"^dataset.init_args.columns.item names no column of .*items.csv: got 'isbn'"):
        books(tmp_path, items=items).read()
    with pytest.raises(DataError, match=r"^dataset.init_args.columns.user names .*users.csv: got 'reader'"):
        books(tmp_path, users=users).read()
    ratings = books(
        tmp_path,
        items=items,
        users=users,
        item_columns=ItemColumns(id="id"),
        user_columns=UserColumns(id="id", attributes=["age"]),
    ).read()
    assert ratings.users.rows() == [("ann", ["age 3"])]
    assert ratings.counts["ratings_of_unknown_items"] == 2


def test_a_wrong_separator_or_header_is_guessed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Is dataset.init_args.text.separator right\?"):
        books(tmp_path, text=TextFormat(separator=";")).read()
    with pytest.raises(DataError, match=r"\['1', '2', '3', '4'\]. With dataset.init_args.text.header: false columns"):
        books(tmp_path, text=TextFormat(header=False)).read()


def test_missing_files_are_named(tmp_path: Path) -> None:
    put(tmp_path / "ratings.csv", LOG)
    with pytest.raises(
        DataError, match=r"^dataset.init_args.ratings: .*rating.csv': no such file. Did you mean .*ratings.csv'\?"
    ):
        Table(str(tmp_path / "rating.csv"), columns=RatingColumns(rating="stars")).read()
    with pytest.raises(DataError, match=r"^dataset.init_args.ratings: .*no \*.parquet part"):
        Table(str(tmp_path), columns=RatingColumns(rating="stars")).read()
    with pytest.raises(DataError, match=r"^dataset.init_args.items: .*no file that fits the glob"):
        Table(str(tmp_path / "ratings.csv"), items=str(tmp_path / "*.tsv"), columns=BOOK_COLUMNS).content_key()
    with pytest.raises(DataError, match=r"^dataset.init_args.ratings.test: .*no such file"):
        Table({"train": str(tmp_path / "ratings.csv"), "test": str(tmp_path / "no.csv")}, columns=BOOK_COLUMNS).read()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": {}}, r"exactly one of rating, label and impressions must name a column, got none"),
        ({"columns": {"rating": "a", "label": "b"}}, r"got \['rating', 'label'\]"),
        ({"text": {"separator": ""}}, r"dataset.init_args.text.separator must be ASCII characters other than .*got ''"),
        ({"text": {"separator": "§"}}, r"dataset.init_args.text.separator must be ASCII characters other than .*'§'"),
        ({"text": {"separator": '","'}}, r"text.quote must not be part of dataset.init_args.text.separator, got '\"'"),
        ({"text": {"escape": "\\\\"}}, r"dataset.init_args.text.escape must be one character, got "),
        ({"text": {"escape": '"'}}, r"text.escape must differ from dataset.init_args.text.quote, got '\"' for both"),
        ({"text": {"format": "jsonl"}}, r"dataset.init_args.text.format must be one of .*Did you mean 'json'\?"),
        ({"text": {"quote": ""}}, r"dataset.init_args.text.quote must be one character, got ''"),
        ({"text": {"history_separator": ""}}, r"dataset.init_args.text.history_separator must not be empty"),
        ({"time_unit": "sec"}, r"dataset.init_args.time_unit must be 's', .*got 'sec'"),
        ({"time_unit": "%Y %H"}, r"dataset.init_args.time_unit must be 's', .*got '%Y %H'"),
        ({"bad_rows": "drpo"}, r"dataset.init_args.bad_rows must be one of .*Did you mean 'drop'\?"),
        ({"min_item_ratings": 0}, r"dataset.init_args.min_item_ratings must be at least 1"),
        ({"threshold": float("nan")}, r"dataset.init_args.threshold must be a finite number, got nan"),
        (
            {"columns": {"label": "a"}, "threshold": 1.0},
            r"dataset.init_args.threshold must be in \[0, 1\) for labels, got 1.0",
        ),
        (
            {"columns": {"impressions": "a", "position": "p"}},
            r"dataset.init_args.columns.position must be null where .*impressions is set",
        ),
        (
            {"columns": {"rating": "a", "history_ratings": "h"}},
            r"ratings needs dataset.init_args.columns.history",
        ),
    ],
)
def test_arguments_are_checked_without_reading(arguments: dict[str, Any], message: str) -> None:
    given = {"columns": {"rating": "a"}} | arguments
    with pytest.raises(DataError, match=message):
        Table("nowhere.csv", **{key: GROUPS[key](**value) if key in GROUPS else value for key, value in given.items()})


def test_split_files_are_checked_without_reading() -> None:
    with pytest.raises(DataError, match=r"ratings: a split must be one of 'train', 'valid', 'test', got 'tests'. Did"):
        Table({"tests": "a.csv"}, columns=RatingColumns(rating="r"))
    with pytest.raises(DataError, match=r"split must be null where dataset.init_args.ratings names the files"):
        Table({"test": "a.csv"}, columns=RatingColumns(rating="r", split="fold"))


# Bad rows


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


@pytest.mark.parametrize("slot", ["0", "-1", "1.5", "first", "nan", "1e99", str(2**31)])
def test_a_position_is_a_whole_number_from_1(tmp_path: Path, slot: str) -> None:
    log = f"reader,isbn,stars,when,slot\na,b,5,1,{slot}\nz,z,1,2,1\n"
    with pytest.raises(DataError, match=r"a position from 1 on or nothing in 'slot': line 2: 'a,b,5,1,"):
        books(tmp_path, log, columns={"position": "slot"}).read()
    ratings = books(tmp_path, log, bad_rows="drop", columns={"position": "slot"}).read()
    assert (ratings.counts["bad_rows"], triples(ratings)) == (1, [("z", "z", 1.0)])


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
        Table(str(tmp_path / "log.parquet"), columns=BOOK_COLUMNS).read()
    ratings = Table(str(tmp_path / "log.parquet"), columns=BOOK_COLUMNS, bad_rows="drop").read()
    assert (ratings.counts["bad_rows"], triples(ratings)) == (2, [("a", "1", 1.0)])


def test_bad_rows_of_items_are_named(tmp_path: Path) -> None:
    items = put(tmp_path / "items.csv", "isbn,name,published\nb1,A,1999\n,B,\nb2,C,long ago\n")
    with pytest.raises(DataError, match=r"^dataset.init_args.items: .*items.csv has 2 bad .*line 3: ',B,'; line 4"):
        books(tmp_path, items=items, item_columns=ItemColumns(title="name", year="published")).read()
    told = ItemColumns(title="name", year="published")
    counts = books(tmp_path, items=items, bad_rows="drop", item_columns=told).read().counts
    assert (counts["bad_item_rows"], counts["ratings_of_unknown_items"]) == (2, 2)


def test_a_quote_that_never_closes_is_an_error_even_where_bad_rows_are_dropped(tmp_path: Path) -> None:
    """Dropping it would drop the rest of the file."""
    log = HEAD + 'a,b,5,1\na,"b,5,1\n' + "a,c,5,1\n" * 9
    for bad_rows in ("error", "drop"):
        with pytest.raises(
            DataError, match=r"log.csv line 3: a quotation mark opens there and never closes.*quote to null"
        ):
            books(tmp_path, log, bad_rows=bad_rows).read()
    assert books(tmp_path, log, text=TextFormat(quote=None)).read().counts["ratings_read"] == 11


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
    with pytest.raises(DataError, match=r"^dataset.init_args.ratings: .*log.csv.gz can't be read as gzip .*cut off\?"):
        Table(put(tmp_path / "log.csv.gz", b"\x1f\x8b"), columns=BOOK_COLUMNS).read()


def test_a_truncated_parquet_part_is_named(tmp_path: Path) -> None:
    for part in range(2):
        pl.DataFrame({"reader": ["a"], "isbn": ["b"], "stars": [1], "when": [part]}).write_parquet(
            tmp_path / f"{part}.parquet"
        )
    whole = (tmp_path / "1.parquet").read_bytes()
    for cut in (0, 5, len(whole) // 2, len(whole) - 1):
        (tmp_path / "1.parquet").write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"^dataset.init_args.ratings: .*1.parquet can't be read as Parquet"):
            Table(str(tmp_path), columns=BOOK_COLUMNS).read()


@pytest.mark.parametrize(("log", "message"), [("", "is empty"), ("\n \n", "is empty"), (HEAD, "holds no ratings")])
def test_an_empty_log_is_an_error(tmp_path: Path, log: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"^dataset.init_args.ratings: .*log.csv {message}"):
        books(tmp_path, log).read()


# Any corrupted cell is named or counted


_corruptions = [
    (0, ""), (0, " "), (1, ""), (2, ""), (2, "x"), (2, "3,5"), (2, "nan"), (2, "inf"), (2, "1e99"),
    (3, ""), (3, "soon"), (3, "1e20"), (3, "-inf"),
]  # fmt: skip


@quick
@given(rows=valid_rows, data=st.data())
def test_a_corrupted_cell_is_named_or_counted(tmp_path: Path, rows: list, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(rows) - 1))
    column, cell = data.draw(st.sampled_from(_corruptions))
    broken = list(rows[place])
    broken[column] = cell
    text, lines = written([*rows[:place], broken, *rows[place + 1 :], ("z z", "z", 1, 1, "")], ",")
    where = put(tmp_path / "log.csv", text)
    with pytest.raises(DataError, match=rf"has 1 bad line.*: line {lines[place]}: "):
        Table(where, columns=RatingColumns(rating="stars", timestamp="at")).read()
    ratings = Table(where, bad_rows="drop", columns=RatingColumns(rating="stars", timestamp="at")).read()
    assert ratings.counts["bad_rows"] == 1
    kept = [*rows[:place], *rows[place + 1 :]]
    assert ratings.interactions.drop("row").rows() == [*[row[:4] for row in kept], ("z z", "z", 1.0, 1)]


@quick
@given(rows=valid_rows, data=st.data())
def test_a_line_cut_short_is_named_or_counted(tmp_path: Path, rows: list, data: st.DataObject) -> None:
    rows = [(*row[:4], "note") for row in rows]
    place = data.draw(st.integers(0, len(rows) - 1))
    keep = data.draw(st.integers(1, 4))
    text, lines = written([*rows[:place], rows[place][:keep], *rows[place + 1 :]], ",")
    where = put(tmp_path / "log.csv", text)
    with pytest.raises(DataError, match=rf"has 1 bad line.*: line {lines[place]}: "):
        Table(where, columns=RatingColumns(rating="stars", timestamp="at")).read()
