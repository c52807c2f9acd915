"""Broken files for every reader, and what must hold of whatever a reader makes of them."""

from __future__ import annotations

import gzip
import io
import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import polars as pl
from hypothesis import strategies as st
from packers import PACKERS

from trackrec.interactions import (
    AmazonBook,
    DataError,
    ItemColumns,
    MovieLens,
    RatingColumns,
    Ratings,
    RatingSource,
    SampleRules,
    Table,
    TextFormat,
    build_samples,
)
from trackrec.interactions.sources import delimited
from trackrec.storage.schemas import to_arrow

LOSSES = (
    "ratings_of_unknown_items", "ratings_of_untitled_items", "duplicate_ratings", "ratings_outside_core",
)  # fmt: skip


class Reader(NamedTuple):
    """A reader, and files that it reads; whether these must give the same by polars and by the csv module."""

    files: dict[str, bytes]
    open: Callable[[Path], RatingSource]
    both_ways: bool = False


_FLAGS = "|".join("01000100000000000" + "00")
_INTER = (
    b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    b"1\t1\t4\t10\n1\t2\t2\t20\n2\t1\t5\t30\n2\t2\t3.5\t40\n"
)
_ITEM = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "1\tUsual Suspects, The\t1995\tCrime Thriller\n2\tMisérables, Les\t1995\tDrama\n"
).encode()
_USER = (
    b"user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    b"1\t24\tM\twriter\t1\n2\t9\tF\tother\t2\n"
)
_ITEM_100K = f"1|Matrix, The (1999)|31-Mar-1999||http://a|{_FLAGS}\n2|Misérables, Les (1995)|||u|{_FLAGS}\n".encode(
    "latin-1"
)
_USER_100K = b"1|24|M|technician|85711\n2|53|F|other|94043\n"
_CSV = (
    b"user,item,stars,when,title,genres,year,place,fold\n"
    b'ann,a,5,2020-01-01T10:00:00Z,"Bread, &amp; Butter",Food|Home,1999,1,train\n'
    b'ann,b,2.5,2020-01-02,"She said ""no""",,2001-02-03,,test\n'
    b"bob,a,1,2020-01-03 10:00,Bread,Food,,12,train\n"
)
_NEWS = b'N1\tsports\tThe "Open"\nN2\tnews\tRain &amp; wind\nN3\tnews\t\n'
_SHOWN = (
    b"1\tU1\t11/11/2019 9:05:58 AM\tN1 N2\tN3-1 N2-0\n2\tU2\t11/12/2019 6:11:30 PM\t\tN1-0 N2-1\n"
    b"3\tU1\t11/13/2019 1:00:00 AM\tN3\tN1-1\n"
)
_REVIEWS = [
    ("A1", "0001", 5, 1252800000),
    ("A1", "B00X", 3, 1252886400),
    ("A2", "0001", 1, 1252972800),
    ("A2", "B00X", 4, 1),
]


def _json_lines(records: list[dict]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def _parquet() -> bytes:
    file = io.BytesIO()
    frame = {"user": ["ann", "ann", "bob"], "item": [1, 2, 1], "stars": [5.0, 2.0, 3.0], "when": [10, 20, 30]}
    pl.DataFrame(frame | {"genres": [["x"], [], ["x", "y"]]}).write_parquet(file, compression="uncompressed")
    return file.getvalue()


_BOOKS_2018 = _json_lines(
    [
        {"reviewerID": u, "asin": i, "overall": float(s), "unixReviewTime": t, "style": {"x": "y"}}
        for u, i, s, t in _REVIEWS
    ]
)
_META_2018 = _json_lines(
    [
        {"asin": "0001", "title": "Bread &amp; Butter", "category": ["Books", "Food"]}
        | {"brand": "Visit Amazon's A B Page", "details": {"Publisher:": "X (May 1, 2004)"}},
        {"asin": "B00X", "title": '<span class="a', "brand": "", "category": [], "details": {}},
    ]
)
_BOOKS_2023 = _json_lines(
    [
        {"user_id": u, "parent_asin": i, "rating": float(s), "timestamp": t * 1000, "text": "é"}
        for u, i, s, t in _REVIEWS
    ]
)
_META_2023 = _json_lines(
    [
        {"parent_asin": "0001", "title": "Bread", "author": {"name": "A B"}, "store": "A B (Author)"}
        | {"categories": ["Books"], "details": {"Publisher": "X (May 1, 2004)"}},
        {"parent_asin": "B00X", "title": None, "author": None, "store": None, "categories": [], "details": {}},
    ]
)
_RATINGS_CSV = "".join(f"{i},{u},{float(s)},{t}\n" for u, i, s, t in _REVIEWS).encode()
_RATINGS_2023 = (
    b"user_id,parent_asin,rating,timestamp\n"
    + "".join(f"{u},{i},{float(s)},{t * 1000}\n" for u, i, s, t in _REVIEWS).encode()
)

_LOG = RatingColumns(user="user", item="item", rating="stars", timestamp="when")
_MIND = {
    "columns": RatingColumns(user="2", history="4", impressions="5", timestamp="3"),
    "item_columns": ItemColumns(id="1", attributes="2", title="3"),
    "text": TextFormat(separator="\t", header=False, quote=None),
    "time_unit": "%m/%d/%Y %I:%M:%S %p",
}


def _table(**arguments: object) -> Callable[[Path], RatingSource]:
    def make(root: Path) -> RatingSource:
        found = {key: sorted(root.glob(f"{name}.*")) for key, name in (("ratings", "log"), ("items", "items"))}
        given = {key: str(paths[0]) for key, paths in found.items() if paths}
        return Table(**(given | arguments))  # type: ignore[arg-type]

    return make


def _books(**arguments: object) -> Callable[[Path], RatingSource]:
    return lambda root: AmazonBook(root, min_user_ratings=1, min_item_ratings=1, **arguments)  # type: ignore[arg-type]


_PLAIN = b"user,item,stars,when\nann,a,5,1\nann,b,2.5,2\nbob,a,1,3\n"
_COLONS = (
    b'user::item::stars::when::title\nann::a::5::1::"Bread:: : ""and"""\nbob::b::2::2::"Salt\n::"\nbob::a::1::3::\n'
)
_ESCAPED = (
    b'"user";"item";"stars";"when";"title"\r\n"ann";"a";"5";"1";"The \\"Best\\" of \\\\ 2000; more"\r\n'
    b'"ann";"b";"2.5";"2";"x"\r\n"bob";a;1;3;A\\;B\r\n'
)
_OBJECTS = [
    {"user": "ann", "item": 1234567890123456789, "stars": 5, "when": 1, "genres": ["x|y", "z"]}
    | {"about": {"title": "Bread"}},
    {"user": "ann", "item": "b", "stars": 2.5, "when": 2, "about": {"title": None}, "genres": []},
    {"user": "bob", "item": 1234567890123456789, "stars": 1, "when": "3", "about": None, "more": [{"n": True}]},
]
_DICTS = "".join(f"{record!r}\n" for record in _OBJECTS).replace("'user': '", "u'user': u'").encode()
_OF_OBJECTS = {"columns": _LOG, "item_columns": ItemColumns(title="about.title", attributes=["genres", "more.n"])}
_FILMS = 'movieId,title,genres\n1,"Cité, La (1995)",Drama|War\n2,Death Note (2006\u2013),(no genres listed)\n'.encode()
_STARS = b"userId,movieId,rating,timestamp\n1,1,4.0,10\n1,2,0.5,20\n2,1,5.0,30\n2,2,1.0,40\n"

_TOLD = {
    "columns": replace(_LOG, position="place", split="fold"),
    "item_columns": ItemColumns(title="title", attributes="genres", year="year"),
    "time_unit": "iso",
}
READERS: dict[str, Reader] = {
    "recbole": Reader(
        {"m.inter": _INTER, "m.item": _ITEM, "m.user": _USER}, lambda root: MovieLens(root, download=False)
    ),
    "ml-100k": Reader(
        {"u.data": b"1\t1\t4\t10\n1\t2\t2\t20\n2\t1\t5\t30\n2\t2\t1\t40\n", "u.item": _ITEM_100K, "u.user": _USER_100K},
        lambda root: MovieLens(root, download=False),
    ),
    "ml-1m": Reader(
        {
            "ratings.dat": b"1::1::4::10\n1::2::2::20\n2::1::5::30\n2::2::1::40\n",
            "movies.dat": "1::Léon (1988)::Comedy\n2::Cité, La (1995)::Children's|Sci-Fi\n".encode("latin-1"),
            "users.dat": b"1::F::1::10::48067\n2::M::56::16::70072\n",
        },
        lambda root: MovieLens(root, download=False),
    ),
    "ml-10m": Reader(
        {
            "ratings.dat": b"1::1::4.5::10\n1::2::2::20\n2::1::5::30\n2::2::1::40\n",
            "movies.dat": "1::Léon: a: b (1988)::Comedy\n2::Cité, La (1995)::Children|Sci-Fi\n".encode(),
            "tags.dat": b"1::1::x::9\n",
        },
        lambda root: MovieLens(root, download=False),
    ),
    "ml-latest": Reader(
        {"ratings.csv": _STARS, "movies.csv": _FILMS}, lambda root: MovieLens(root, download=False), both_ways=True
    ),
    "ml-latest, packed": Reader(
        {"ratings.csv.zst": PACKERS[".zst"](_STARS), "movies.csv.zip": PACKERS[".zip"](_FILMS)},
        lambda root: MovieLens(root, download=False),
    ),
    **{
        f"csv{ending}": Reader({f"log.csv{ending}": pack(_PLAIN)}, _table(columns=_LOG, bad_rows="drop"))
        for ending, pack in PACKERS.items()
    },
    "colons": Reader(
        {"log.dat": _COLONS},
        _table(columns=_LOG, item_columns=ItemColumns(title="title"), text=TextFormat(separator="::"), bad_rows="drop"),
        both_ways=True,
    ),
    "escapes": Reader(
        {"log.csv": _ESCAPED},
        _table(
            columns=_LOG,
            item_columns=ItemColumns(title="title"),
            text=TextFormat(separator=";", escape="\\"),
            bad_rows="drop",
        ),
        both_ways=True,
    ),
    "json lines": Reader({"log.jsonl": _json_lines(_OBJECTS)}, _table(**_OF_OBJECTS)),
    "json lines, drop": Reader({"log.jsonl": _json_lines(_OBJECTS)}, _table(**_OF_OBJECTS, bad_rows="drop")),
    "python lines": Reader({"log.json": _DICTS}, _table(**_OF_OBJECTS)),
    "python lines, drop": Reader({"log.json": _DICTS}, _table(**_OF_OBJECTS, bad_rows="drop")),
    "csv": Reader({"log.csv": _CSV}, _table(**_TOLD), both_ways=True),
    "csv, drop": Reader({"log.csv": _CSV}, _table(**_TOLD, bad_rows="drop"), both_ways=True),
    "tsv": Reader({"log.csv": _SHOWN, "items.csv": _NEWS}, _table(**_MIND)),
    "tsv, drop": Reader({"log.csv": _SHOWN, "items.csv": _NEWS}, _table(**_MIND, bad_rows="drop"), both_ways=True),
    "parquet": Reader(
        {"log.parquet": _parquet()},
        lambda root: Table(str(root / "log.parquet"), columns=_LOG, item_columns=ItemColumns(attributes="genres")),
    ),
    "books 2018": Reader({"Books.json": _BOOKS_2018, "meta_Books.json": _META_2018}, _books()),
    "books 2018, drop": Reader({"Books.json": _BOOKS_2018, "meta_Books.json": _META_2018}, _books(bad_rows="drop")),
    "books 2023": Reader({"Books.jsonl": _BOOKS_2023, "meta_Books.jsonl": _META_2023}, _books(untitled="drop")),
    "books 2023, packed": Reader(
        {
            "Books.jsonl.gz": gzip.compress(_BOOKS_2023, mtime=0),
            "meta_Books.jsonl.gz": gzip.compress(_META_2023, mtime=0),
        },
        _books(bad_rows="drop"),
    ),
    "books, stars": Reader({"Books.csv": _RATINGS_CSV, "meta_Books.json": _META_2018}, _books(bad_rows="drop")),
    "books, stars 2023": Reader({"Books.csv": _RATINGS_2023, "meta_Books.jsonl": _META_2023}, _books()),
}

_TOKENS = [
    b"", b"\x00", b"\n", b"\r", b"\r\n", b"\t", b",", b"::", b"|", b'"', b"'", b"\\", b"\xff", b"\xfe\xff", b"\xff\xfe",
    b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\x85", b"\x1f", b"\x1e", b" ", b"nan", b"inf", b"-inf", b"1e999", b"1e39",
    b"-1", b"0", b"null", b"true", b"9" * 25, b"9" * 5000, b"[", b"]", b"{", b"}", b"[" * 2000, b'{"a":', b"\\ud800",
    b"\\u0000", b"&amp;", b"&#x110000;", b"<|im_end|>", b"<span", b"var a = 1", b"2020-13-45", b"x" * 10_000,
    b"\xf0\x9f\x93\x9a", b"\x1f\x8b", b"PAR1", b"x^", b"\x28\xb5\x2f\xfd",
    b"PK\x03\x04", b"BZh91AY&SY", b"\xfd7zXZ\x00", b"u'", b"\\'", b"\\", b'\\"', b"-" * 5000, b"1+" * 3000, b":::",
]  # fmt: skip
_CELLS = re.compile(rb"([\t\n,:\"|{}\[\]]+)")
_bytes = st.one_of(st.sampled_from(_TOKENS), st.binary(max_size=12))
_KINDS = ["insert", "replace", "delete", "repeat", "cut", "swap", "cell", "cell", "cell"]
_change = st.tuples(
    st.sampled_from(_KINDS),
    st.integers(0, 2**16),
    st.integers(0, 40),
    _bytes,
)
changes = st.lists(_change, min_size=1, max_size=6)
"""What is done to a file, in this order."""


def random_changes(rng: random.Random) -> list[tuple[str, int, int, bytes]]:
    """The same without hypothesis."""
    new = [rng.choice(_TOKENS) if rng.random() < 0.7 else rng.randbytes(rng.randrange(12)) for _ in range(6)]
    return [
        (rng.choice(_KINDS), rng.randrange(2**16), rng.randrange(40), new[at])
        for at in range(rng.choice([1, 1, 1, 2, 2, 3, 6]))
    ]


def broken(data: bytes, steps: list[tuple[str, int, int, bytes]]) -> bytes:
    """The file after the changes."""
    for kind, where, length, new in steps:
        at = where % (len(data) + 1)
        part = data[at : at + length]
        if kind == "insert":
            data = data[:at] + new + data[at:]
        elif kind == "replace":
            data = data[:at] + new + data[at + length :]
        elif kind == "delete":
            data = data[:at] + data[at + length :]
        elif kind == "repeat":
            data = data[:at] + part * 3 + data[at + length :]
        elif kind == "cut":
            data = data[:at]
        elif kind == "cell":
            cells = _CELLS.split(data)
            cells[where // 2 * 2 % len(cells)] = new
            data = b"".join(cells)
        else:
            lines = data.split(b"\n")
            first, second = where % len(lines), length % len(lines)
            lines[first], lines[second] = lines[second], lines[first]
            data = b"\n".join(lines)
    return data


def check(reader: Reader, root: Path, files: dict[str, bytes]) -> str:
    """Read the files: "read" when there is a table whose invariants hold, "refused" when there is a documented error.

    Raises:
        AssertionError: an invariant is broken, or the error doesn't say what it is about.
    """
    for old in root.iterdir():
        old.unlink()
    for name, data in files.items():
        (root / name).write_bytes(data)
    source = reader.open(root)
    result = _read(source)
    if reader.both_ways:
        with mock.patch.object(delimited, "_read_fast", return_value=None):
            slow = _read(source)
        assert _plain(slow) == _plain(result)
    if isinstance(result, Ratings):
        assert_invariants(result)
        _sample(result, source.threshold)
        return "read"
    refusal = result
    assert any(name in refusal for name in files), refusal
    assert "dataset.init_args." in refusal, refusal
    assert len(refusal) < 2000, refusal
    return "refused"


def _read(source: RatingSource) -> Ratings | str:
    """The tables, or the documented error."""
    try:
        return source.read()
    except DataError as error:
        return str(error)


def _plain(result: Ratings | str) -> object:
    if isinstance(result, str):
        return result
    return [each.to_dicts() if isinstance(each, pl.DataFrame) else each for each in result]


def _sample(ratings: Ratings, threshold: float) -> None:
    try:
        build_samples(ratings, SampleRules(per="sample"), threshold, seed=0)
    except DataError as error:
        if "samples." not in str(error):
            raise


def assert_invariants(ratings: Ratings) -> None:
    """The promises of `Ratings`."""
    items, users, rows, counts = ratings.items, ratings.users, ratings.interactions, ratings.counts
    for name, frame in (("items", items), ("users", users), ("interactions", rows)):
        to_arrow(name, frame)
        required = [column for column in frame.columns if column not in ("year", "position")]
        assert frame.select(required).null_count().sum_horizontal().item() == 0
    assert items["item_id"].is_unique().all()
    assert users["user_id"].is_unique().all()
    assert rows.height
    assert not (items["item_id"] == "").any()
    assert rows["item_id"].is_in(items["item_id"].implode()).all()
    assert rows["user_id"].is_in(users["user_id"].implode()).all()
    assert rows["rating"].is_finite().all()
    assert rows["row"].is_sorted()
    assert rows["row"].is_unique().all()
    if ratings.splits is None:
        assert rows.select("user_id", "item_id").is_unique().all()
    else:
        assert ratings.splits["row"].equals(rows["row"])
        assert ratings.splits["split"].is_in(["train", "valid", "test"]).all()
    if "position" in rows.columns:
        assert (rows["position"].drop_nulls() >= 1).all()
    assert all(isinstance(count, int) and count >= 0 for count in counts.values()), counts
    assert (counts["items"], counts["users"], counts["ratings"]) == (items.height, users.height, rows.height)
    assert counts["ratings_read"] - sum(counts.get(name, 0) for name in LOSSES) == rows.height
