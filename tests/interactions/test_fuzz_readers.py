"""Arbitrary bytes and broken files: every reader gives a table that keeps its promises, or a documented error."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from fuzzing import READERS, broken, changes, check
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

fuzz = settings(
    max_examples=10,
    deadline=timedelta(seconds=20),
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
readers = pytest.mark.parametrize("name", READERS)


# What was found, each once an exception of another kind, a refusal without end or a table without rows.
FOUND = {
    "a header line that repeats a name": ("recbole", "m.inter", b"1\t2\t2\t20\n1\t1\t4\t10"),
    "a header alone": ("recbole", "m.inter", b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n"),
    "a time beyond all integers": (
        "recbole",
        "m.inter",
        b"user_id:a\titem_id:a\trating:a\ttimestamp:a\n1\t1\t4\t39999999999999999999999999",
    ),
    "a header cell without end": ("csv", "log.csv", b"u" + b"9" * 30_000 + b",item,stars,when\na,b,1,1\n"),
    "many header cells": ("recbole", "m.user", b"\t".join(b"column %d" % number for number in range(5000))),
    "a packed file's mark before text": ("csv", "log.csv", b"x^,item,stars,when\n"),
    "ratings behind a repeated header": (
        "books, stars 2023",
        "Books.csv",
        b"user_id,parent_asin,rating,rating,timestamp\n",
    ),
    "a packed file whose start moved": (
        "books 2023, packed",
        "Books.jsonl.gz",
        broken(READERS["books 2023, packed"].files["Books.jsonl.gz"], [("swap", 0, 1, b"")]),
    ),
    "a quotation mark that polars closes": (
        "colons",
        "log.dat",
        b'user::item::stars::when::title\nann::a::5::1::"Bread:: : ""',
    ),
    "a page on which polars panics": (
        "parquet",
        "log.parquet",
        broken(READERS["parquet"].files["log.parquet"], [("insert", 433, 23, b'{"a":')]),
    ),
}


@pytest.mark.parametrize("found", FOUND.values(), ids=FOUND)
def test_what_was_found_is_refused(found: tuple[str, str, bytes], tmp_path: Path) -> None:
    name, victim, data = found
    assert check(READERS[name], tmp_path, READERS[name].files | {victim: data}) == "refused"


@readers
def test_the_whole_files_are_read(name: str, tmp_path: Path) -> None:
    assert check(READERS[name], tmp_path, READERS[name].files) == "read"


@readers
@fuzz
@given(data=st.data(), steps=changes)
def test_broken_files_are_read_or_refused(name: str, tmp_path: Path, data: st.DataObject, steps: list) -> None:
    files = READERS[name].files
    victim = data.draw(st.sampled_from(sorted(files)))
    check(READERS[name], tmp_path, files | {victim: broken(files[victim], steps)})


@readers
@fuzz
@given(data=st.data(), content=st.binary(max_size=300))
def test_arbitrary_bytes_are_read_or_refused(name: str, tmp_path: Path, data: st.DataObject, content: bytes) -> None:
    files = READERS[name].files
    victim = data.draw(st.sampled_from(sorted(files)))
    check(READERS[name], tmp_path, files | {victim: content})
