"""Files of one JSON object or Python dict per line: values without loss, bad lines by their number."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packers import PACKERS, zip_of_one
from table_files import put, quick, triples

from trackrec.interactions import DataError, ItemColumns, RatingColumns, Table, TextFormat
from trackrec.interactions.sources import records as room

COLUMNS = RatingColumns("user", "item", rating="stars", timestamp="at")


def log(path: Path, *records: Any, write: Callable[[Any], str] = json.dumps, **arguments: Any) -> Table:
    """A file of the records, each as JSON unless it is a line already."""
    lines = [record if isinstance(record, str) else write(record) for record in records]
    return Table(put(path, "\n".join(lines) + "\n"), **({"columns": COLUMNS} | arguments))


def row(user: Any, item: Any, stars: Any = 4, at: Any = 10, **more: Any) -> dict[str, Any]:
    return {"user": user, "item": item, "stars": stars, "at": at, **more}


@pytest.mark.parametrize("write", [json.dumps, repr], ids=["json", "python"])
@pytest.mark.parametrize("ending", ["", *PACKERS])
def test_lines_of_objects_are_read_whatever_they_are_packed_with(
    tmp_path: Path, ending: str, write: Callable[[Any], str]
) -> None:
    """.json holds either; the first lines say which."""
    text = "".join(write(each) + "\r\n\n" for each in (row("ann", "a", 5), row("bob", "é", 2.5))).encode()
    packers = PACKERS | {"": lambda data: data, ".zip": lambda data: zip_of_one(data, "inside__json")}
    where = put(tmp_path / f"log.json{ending}", packers[ending](text))
    assert triples(Table(where, columns=COLUMNS).read()) == [
        ("ann", "a", 5.0),
        ("bob", "é", 2.5),
    ]


@pytest.mark.parametrize("name", ["log.jsonl", "log.ndjson", "log.JSON"])
def test_the_name_says_that_lines_are_objects(tmp_path: Path, name: str) -> None:
    assert log(tmp_path / name, row("ann", "a")).read().interactions.height == 1


def test_other_names_need_the_format(tmp_path: Path) -> None:
    for form, write in (("json", json.dumps), ("python", repr)):
        source = log(tmp_path / "log.txt", row("ann", "a"), write=write, text=TextFormat(format=form))
        assert source.read().interactions.height == 1


@pytest.mark.parametrize("write", [json.dumps, repr], ids=["json", "python"])
def test_ids_keep_all_digits(tmp_path: Path, write: Callable[[Any], str]) -> None:
    """As numbers of 19 and 30 digits, with leading zeros as text, and as numbers with a decimal point."""
    ids = [1234567890123456789, 10**29 + 7, "007", "1e5", 4.5, -3]
    ratings = log(tmp_path / "log.json", *(row(each, each) for each in ids), write=write).read()
    told = ["1234567890123456789", "100000000000000000000000000007", "007", "1e5", "4.5", "-3"]
    assert ratings.interactions["user_id"].to_list() == told
    assert ratings.interactions["item_id"].to_list() == told


def test_json_numbers_stay_as_they_are_written(tmp_path: Path) -> None:
    lines = [
        '{"user": 1.50, "item": 1E3, "stars": 4.50, "at": 1.5e1}',
        '{"user": -0, "item": 0.1, "stars": 3, "at": 2}',
    ]
    assert log(tmp_path / "log.jsonl", *lines).read().interactions.rows() == [
        ("1.50", "1E3", 4.5, 15, 0),
        ("-0", "0.1", 3.0, 2, 1),
    ]


def test_truth_values_are_labels(tmp_path: Path) -> None:
    columns = RatingColumns("user", "item", label="liked")
    for write in (json.dumps, repr):
        rows = [row("a", item, liked=liked) for item, liked in (("x", True), ("y", False), ("z", 1))]
        ratings = log(tmp_path / "log.json", *rows, write=write, columns=columns).read()
        assert ratings.interactions["rating"].to_list() == [1.0, 0.0, 1.0]


def test_lists_nulls_and_missing_fields(tmp_path: Path) -> None:
    """Lists are attributes whatever they hold; text between separators beside them is split as everywhere."""
    items = [
        row("u", "a", title="A", tags=["x|y", 3, None, True], year=1999),
        row("u", "b", title=None, tags=[], year=None),
        row("u", "c", title="C", tags="p|q", year="2001-05-06"),
        row("u", "d", title=""),
    ]
    about = ItemColumns(title="title", attributes="tags", year="year")
    for write in (json.dumps, repr):
        ratings = log(tmp_path / "log.json", *items, write=write, item_columns=about).read()
        assert ratings.items.rows() == [
            ("a", "A", ["x|y", "3", "true"], 1999),
            ("b", "b", [], None),
            ("c", "C", ["p", "q"], 2001),
            ("d", "d", [], None),
        ]
        assert ratings.interactions["row"].to_list() == [0, 1, 2, 3]


def test_fields_inside_fields_are_named_with_dots(tmp_path: Path) -> None:
    """Also of every object in a list; a field whose own name has a dot comes first."""
    record = {
        "who": {"id": 7, "a.b": "dotted"},
        "what": {"deep": {"id": "x"}},
        "shelves": [{"name": "S", "n": 1}, {"name": "T"}, {"n": 2}],
        "what.title": "own",
        "stars": 4,
    }
    source = log(
        tmp_path / "log.jsonl",
        record,
        columns=RatingColumns("who.id", "what.deep.id", rating="stars"),
        item_columns=ItemColumns(title="what.title", attributes=["shelves.name", "who.a.b"]),
    )
    ratings = source.read()
    assert triples(ratings) == [("7", "x", 4.0)]
    assert ratings.items.row(0)[1:3] == ("own", ["S", "T", "dotted"])
    with pytest.raises(DataError, match=r"columns.user names no column of .*got 'who.name', .*'who', 'who.id'"):
        log(tmp_path / "log.jsonl", record, columns=RatingColumns("who.name", "what.deep.id", rating="stars")).read()


def test_bad_lines_are_named_or_dropped_and_counted(tmp_path: Path) -> None:
    lines = [
        row("ann", "a"), "", "{", "[1]", '{"user": NaN}', row("", "a"), row("ann", ["a", "b"]),
        row("ann", {"b": 1}), row("ann", "b", "five"), row("bob", "b", at=None), row("eve", "e"),
    ]  # fmt: skip
    source = log(tmp_path / "log.jsonl", *lines)
    with pytest.raises(
        DataError,
        match=r"^dataset.init_args.ratings: .*log.jsonl has 8 bad line\(s\), want a JSON object with an id in 'user', "
        r".*: line 3: '\{'; line 4: '\[1\]'; line 5: '\{\"user\": NaN\}'; and 5 more\. Correct or delete them, or set",
    ):
        source.read()
    ratings = log(tmp_path / "log.jsonl", *lines, bad_rows="drop").read()
    assert (ratings.counts["bad_rows"], triples(ratings)) == (8, [("ann", "a", 4.0), ("eve", "e", 4.0)])


@pytest.mark.parametrize("size", [1, 40, 1 << 20])
def test_bad_python_lines_are_named_whatever_the_blocks(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_BLOCK_BYTES", size)
    lines = [
        "{u'user': u'ann', 'item': \"it's\", 'stars': 4, 'at': 1}",
        "{'user': print(1)}",
        "{'user': '\\d'",
        "-" * 9999,
    ]
    source = log(tmp_path / "log.json", *lines, lines[0].replace("ann", "bob"))
    with pytest.raises(
        DataError, match=r"has 3 bad line\(s\), want a Python dict with .*: line 2: .*line 3: .*line 4: "
    ):
        source.read()
    ratings = log(tmp_path / "log.json", *lines, lines[0].replace("ann", "bob"), bad_rows="drop").read()
    assert [each[0] for each in triples(ratings)] == ["ann", "bob"]


def test_bytes_that_are_not_utf_8_are_bad_lines(tmp_path: Path) -> None:
    """JSON is UTF-8 by its standard. A mark at the start is none of its text; UTF-16 is refused whole."""
    text = "\n".join(json.dumps(row(user, "a"), ensure_ascii=False) for user in ("ann", "José")) + "\n"
    put(tmp_path / "log.jsonl", text.encode("latin-1"))
    source = Table(str(tmp_path / "log.jsonl"), columns=COLUMNS)
    with pytest.raises(DataError, match=r"has 1 bad line\(s\), want a JSON object .*: line 2: "):
        source.read()
    put(tmp_path / "log.jsonl", b"\xef\xbb\xbf" + text.encode())
    assert source.read().interactions["user_id"].to_list() == ["ann", "José"]
    put(tmp_path / "log.jsonl", text.encode("utf-16"))
    with pytest.raises(DataError, match=r"is UTF-16 text. Save it as UTF-8"):
        source.read()


def test_files_that_are_no_lines_of_objects_say_so(tmp_path: Path) -> None:
    array = json.dumps([row("ann", "a")])
    with pytest.raises(DataError, match=r"log.json is one JSON array. Write one object per line, .*jq -c '\.\[\]'"):
        log(tmp_path / "log.json", array).read()
    for text, told in (
        ("", "is empty"),
        ("\n \n", "is empty"),
        ('{\n "user":', r"has no line that .*: it begins '\{'"),
    ):
        with pytest.raises(DataError, match=rf"^dataset.init_args.ratings: .*log.json {told}"):
            Table(put(tmp_path / "log.json", text), columns=COLUMNS, bad_rows="drop").read()
    with pytest.raises(
        DataError, match=r"item_columns.title: column 'title' of .*log.json holds List.*want single val"
    ):
        log(tmp_path / "log.json", row("u", "a", title=["x"]), item_columns=ItemColumns(title="title")).read()


def test_a_field_may_come_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_BLOCK_BYTES", 64)
    rows = [row("u", f"i{n}", at=n) for n in range(5)] + [row("u", "late", title="Late", tags=["x"])]
    ratings = log(tmp_path / "log.jsonl", *rows, item_columns=ItemColumns(title="title", attributes="tags")).read()
    assert ratings.items.row(5)[1:3] == ("Late", ["x"])


_texts = st.text(max_size=5)
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
_ids = st.text("abé☃\x00\"'\\", min_size=1, max_size=4) | st.integers(-(10**30), 10**30)


@quick
@given(
    rows=st.lists(st.tuples(_ids, st.integers(1, 5), _values), min_size=1, max_size=8),
    size=st.sampled_from([1, 100, 1 << 20]),
)
def test_json_and_python_lines_give_the_same(tmp_path: Path, rows: list, size: int) -> None:
    """Whatever the other fields hold and wherever blocks end; ids come back as their text."""
    records = [row(each, f"i{n}", stars, n, more=more) for n, (each, stars, more) in enumerate(rows)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_BLOCK_BYTES", size)
        ways = [log(tmp_path / "log.json", *records, write=write).read() for write in (json.dumps, repr)]
    assert ways[0].interactions.equals(ways[1].interactions)
    assert ways[0].counts == ways[1].counts
    assert ways[0].interactions.height == len(rows)
    users = {n: str(each).strip() for n, (each, _, _) in enumerate(rows)}
    for user, item in ways[0].interactions.select("user_id", "item_id").rows():
        assert user == users[int(item[1:])]
