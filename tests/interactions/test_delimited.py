"""Text files of fields: what polars reads at once and the csv module row by row is the same, in every format."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packers import PACKERS, zip_of_one, zipped
from table_files import BOOK_COLUMNS, LOG, books, put, quick, triples

from trackrec.interactions import DataError, ItemColumns, RatingColumns, Ratings, Table, TextFormat
from trackrec.interactions.sources import delimited as room

COLUMNS = RatingColumns("user_id", "item_id", rating="stars", timestamp="at")
HEADER = ("user_id", "item_id", "stars", "at", "note")


def slowly(source: Table) -> Ratings:
    """Read with the csv module alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_read_fast", lambda *args: None)
        return source.read()


def quickly(source: Table) -> Ratings:
    """Read with polars; fails where that would need the csv module."""

    def never(*args: object) -> Any:
        raise AssertionError("read by the csv module")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_read_slowly", never)
        return source.read()


def assert_same(one: Ratings, other: Ratings) -> None:
    for left, right in zip(one, other, strict=True):
        assert left == right if isinstance(left, dict) or left is None else left.equals(right)


_notes = st.text("ab \"',;:|\\\n\té\u2603", max_size=8)
_rows = st.lists(
    st.tuples(st.sampled_from(["ann", "b:b", "c d"]), st.sampled_from(["x", "yy", "z:"]), st.integers(1, 5), _notes),
    min_size=1,
    max_size=8,
    unique_by=lambda row: row[:2],
)  # fmt: skip


def titles(rows: list[tuple[str, str, int, str]]) -> dict[str, str]:
    """The first note of each item that isn't blank, or the item's id."""
    notes: dict[str, str] = {}
    for _, item, _, note in rows:
        notes[item] = notes.get(item) or " ".join(note.split())
    return {item: note or item for item, note in notes.items()}


@quick
@given(
    rows=_rows,
    separator=st.sampled_from(["::", "||", ", ", ";;;"]),
    everything=st.booleans(),
    size=st.sampled_from([1, 7, 1 << 20]),
)
def test_separators_of_several_characters(
    tmp_path: Path, rows: list, separator: str, everything: bool, size: int
) -> None:
    """Quoted fields may hold the separator, and lines end within them; blocks may end anywhere."""

    def cell(value: object) -> str:
        text = str(value)
        quote = everything or any(sign in text for sign in ('"', "\n", separator[0], separator[-1]))
        return '"' + text.replace('"', '""') + '"' if quote else text

    lines = [HEADER, *((user, item, stars, at, note) for at, (user, item, stars, note) in enumerate(rows))]
    text = "".join(separator.join(map(cell, line)) + "\n" for line in lines)
    source = Table(
        put(tmp_path / "log.txt", text),
        columns=COLUMNS,
        item_columns=ItemColumns(title="note"),
        text=TextFormat(separator=separator),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_BLOCK_BYTES", size)
        ratings = source.read()
    assert_same(ratings, slowly(source))
    assert triples(ratings) == [(user, item, float(stars)) for user, item, stars, _ in rows]
    assert dict(ratings.items.select("item_id", "title").rows()) == titles(rows)


def test_double_colons_are_read_by_polars(tmp_path: Path) -> None:
    """The leftmost pair of three colons is the separator, as `str.split` has it."""
    log = "1::a:::4::10\n2::b::3::20\n"
    source = Table(
        put(tmp_path / "ratings.dat", log.replace("a:::", "a::")),
        columns=RatingColumns("1", "2", rating="3", timestamp="4"),
        text=TextFormat(separator="::", header=False, quote=None),
    )
    assert quickly(source).interactions.rows() == [("1", "a", 4.0, 10, 0), ("2", "b", 3.0, 20, 1)]
    put(tmp_path / "ratings.dat", log)
    with pytest.raises(DataError, match=r"want 4 fields between '::'; .*number in '3'.*: line 1: '1::a:::4::10'"):
        source.read()
    put(tmp_path / "ratings.dat", "1::a::4::10\n2::b::3\n")
    with pytest.raises(DataError, match=r"want 4 fields between '::'; .*: line 2: '2::b::3'"):
        source.read()


def test_a_file_of_control_characters_has_no_stand_in(tmp_path: Path) -> None:
    log = bytes(range(32)) + b"::x\n"
    with pytest.raises(DataError, match=r"log.csv holds every control character. Is it a text file\?"):
        books(tmp_path, log, text=TextFormat(separator="::")).read()


@quick
@given(rows=_rows, quote=st.sampled_from(['"', "'", None]), separator=st.sampled_from([",", ";", "::"]))
def test_escaped_characters_round_trip(tmp_path: Path, rows: list, quote: str | None, separator: str) -> None:
    """Backslashes before quotation marks, backslashes and, outside of quotes, separators."""

    def cell(value: object) -> str:
        text = str(value).replace("\\", "\\\\")
        if quote:
            return quote + text.replace(quote, "\\" + quote) + quote
        return text.replace(separator[0], "\\" + separator[0]).replace("\n", " ")

    lines = [HEADER, *((user, item, stars, at, note) for at, (user, item, stars, note) in enumerate(rows))]
    text = "".join(separator.join(map(cell, line)) + "\n" for line in lines)
    source = Table(
        put(tmp_path / "log.csv", text),
        columns=COLUMNS,
        item_columns=ItemColumns(title="note"),
        text=TextFormat(separator=separator, quote=quote, escape="\\"),
    )
    ratings = source.read()
    assert_same(ratings, slowly(source))
    assert triples(ratings) == [(user, item, float(stars)) for user, item, stars, _ in rows]
    assert dict(ratings.items.select("item_id", "title").rows()) == titles(rows)


def test_where_nothing_is_escaped_polars_reads(tmp_path: Path) -> None:
    source = books(tmp_path, text=TextFormat(escape="\\"))
    assert_same(quickly(source), slowly(source))


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ('"ann "x" y",a,1,1\n', "line 2: 'a stray quotation mark'"),
        ('""ann,a,1,1\n', "line 2: 'a stray quotation mark'"),
        ("ann,a,1,1,", "line 2: 'ann,a,1,1,'"),
        ('ann,a,1,"1', "a quotation mark opens there and never closes"),
        ("ann\rbob,a,1,1\n", "line 2: 'ann'"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 1 << 20])
def test_what_polars_would_change_is_read_by_the_csv_module(
    tmp_path: Path, log: str, message: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """polars drops quotation marks and an empty field at the end, and takes a carriage return for text."""
    monkeypatch.setattr(room, "_BLOCK_BYTES", size)
    source = books(tmp_path, LOG.splitlines()[0] + "\n" + log)
    with pytest.raises(DataError, match=rf"log.csv .*{message}"):
        source.read()


@pytest.mark.parametrize("size", [1, 2, 1 << 20])
def test_line_ends_and_whole_quotes_are_read_by_polars(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_BLOCK_BYTES", size)
    log = 'reader,isbn,stars,when\r\n"ann",b1,"5",30\r\n"b ""o"" b","",2,"20"\r\n""" x",b2,3.5,10\r\n'
    ratings = quickly(books(tmp_path, log.replace('"",2', "c,2")))
    assert triples(ratings) == [("ann", "b1", 5.0), ('b "o" b', "c", 2.0), ('" x', "b2", 3.5)]


def test_the_bad_lines_of_book_crossing_are_named(tmp_path: Path) -> None:
    """A backslash before the quotation mark that should end the title: title and author become one field."""
    items = (
        '"ISBN";"Book-Title";"Book-Author";"Year-Of-Publication"\r\n'
        '"0156006529";"The \\"Best\\" of \\\\ 2000";"José Núñez";"2000"\r\n'
        '"078946697X";"Creating the X-Men (Level 4)\\";Michael Teitelbaum";"2000"\r\n'
    ).encode("latin-1")
    log = "reader,isbn,stars,when\nann,0156006529,5,30\n".replace(",", ";")
    given = {
        "items": put(tmp_path / "BX-Books.csv", items),
        "item_columns": ItemColumns(
            id="ISBN", title="Book-Title", attributes="Book-Author", year="Year-Of-Publication"
        ),
        "text": TextFormat(separator=";", escape="\\"),
    }
    with pytest.raises(DataError, match=r"items: .*BX-Books.csv has 1 bad .*want 4 fields .*: line 3: '078946697X;"):
        books(tmp_path, log, **given).read()
    ratings = books(tmp_path, log, **given, bad_rows="drop").read()
    assert ratings.items.rows() == [("0156006529", 'The "Best" of \\ 2000', ["José Núñez"], 2000)]
    assert ratings.counts["bad_item_rows"] == 1


@pytest.mark.parametrize("ending", PACKERS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_compressed_files_read_the_same(tmp_path: Path, ending: str, encoding: str) -> None:
    text = LOG.replace("ann", "José").encode(encoding)
    plain = books(tmp_path / "plain", text).read()
    packed = put(tmp_path / f"log.csv{ending}", PACKERS[ending](text))
    source = Table(packed, columns=BOOK_COLUMNS)
    assert_same(source.read(), plain)
    assert source.content_key() == {f"log.csv{ending}": hashlib.sha256(Path(packed).read_bytes()).hexdigest()}
    put(tmp_path / f"log.csv{ending}", PACKERS[ending](LOG.encode("utf-16")))
    with pytest.raises(DataError, match=rf"^dataset.init_args.ratings: .*log.csv{ending} is UTF-16 text. Save"):
        source.read()
    put(tmp_path / f"log.csv{ending}", PACKERS[ending](LOG.replace("3.5", "x").encode()))
    with pytest.raises(DataError, match=rf"log.csv{ending} has 1 bad line.*: line 4: 'ann,b2,x,10'"):
        source.read()


def test_compressed_items_and_users_are_read(tmp_path: Path) -> None:
    items = put(tmp_path / "items.zip", zip_of_one(b"isbn,name\nb1,Bread\nb2,Salt\n", "items__csv"))
    assert books(tmp_path, items=items, item_columns=ItemColumns(title="name")).read().items["title"][0] == "Bread"
    with pytest.raises(DataError, match=r"^dataset.init_args.users: .*users.zip holds 2 files: a.csv, b.csv. "):
        books(tmp_path, users=put(tmp_path / "users.zip", zipped(a__csv=b"", b__csv=b""))).read()


def test_no_copy_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of a good file nor of one with bad rows."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    for log in (LOG, LOG.replace("3.5", "x")):
        packed = put(tmp_path / "log.csv.gz", PACKERS[".gz"](log.replace(",", "::").encode()))
        source = Table(packed, columns=BOOK_COLUMNS, text=TextFormat(separator="::"), bad_rows="drop")
        assert source.read().counts["ratings_read"] in (2, 3)
        assert list((tmp_path / "tmp").iterdir()) == []
