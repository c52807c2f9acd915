"""Blocks of lines: polars at once and the json module line by line read the same; nothing is lost between blocks."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_files import quick

from trackrec.interactions.sources import lines as room
from trackrec.interactions.sources.lines import CsvFormat, JsonFormat, LineFormat, LinePlan, read_lines

JSON = JsonFormat(
    {"id": pl.String(), "n": pl.Float64(), "tags": pl.List(pl.String()), "by": pl.Struct({"name": pl.String})}
)
CSV = CsvFormat(("id", "n"))
GOOD = pl.col("id").str.contains(r"^\w+$") & pl.col("n").cast(pl.Float64, strict=False).is_finite()
PLAN = LinePlan(GOOD, "want an id and a number", lambda frame: frame)

_scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4)
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
_records = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "id": st.one_of(st.text("abé0", max_size=3), _values),
            "n": st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-99, 99), _values),
            "tags": st.one_of(st.lists(st.text('ab\n"', max_size=3), max_size=3), _values),
            "by": st.one_of(st.fixed_dictionaries({}, optional={"name": st.text(max_size=3)}), _values),
            "more": _values,
        },
    ),
    min_size=1,
    max_size=6,
)


@quick
@given(records=_records, ascii_only=st.booleans())
def test_mending_changes_nothing_that_polars_reads(records: list[dict[str, Any]], ascii_only: bool) -> None:
    """Where a block is read at once and every line is good, mended lines give the same rows."""
    lines = [json.dumps(record, ensure_ascii=ascii_only).encode("utf-8", "replace") for record in records]
    try:
        at_once = JSON.parse(b"\n".join(lines))
    except pl.exceptions.PolarsError:
        at_once = None
    mended = [JSON.mend(line) for line in lines]
    frame = JSON.parse(b"\n".join(line for line in mended if line is not None))
    assert frame.height == sum(line is not None for line in mended)
    if at_once is not None and at_once.select(GOOD.fill_null(False).all()).item():
        assert None not in mended
        assert frame.select("id", "n").equals(at_once.select("id", "n"))


@pytest.mark.parametrize("form", [JSON, CSV], ids=["json", "csv"])
@pytest.mark.parametrize("packed", [False, True])
@quick
@given(
    ids=st.lists(st.text("ab", min_size=1, max_size=9), min_size=1, max_size=12),
    size=st.integers(1, 60),
    end=st.booleans(),
)
def test_nothing_is_lost_between_blocks(
    tmp_path: Path, form: LineFormat, packed: bool, ids: list[str], size: int, end: bool
) -> None:
    """Whatever the size of a block, with and without a last line feed."""
    lines = [f"{each},{n}" if form is CSV else json.dumps({"id": each, "n": n}) for n, each in enumerate(ids)]
    data = ("\n".join(lines) + "\n" * end).encode()
    path = tmp_path / "lines"
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_BLOCK_BYTES", size)
        frame, bad = read_lines(path, form, PLAN, drop=False)
    assert bad == 0
    assert frame["id"].to_list() == ids
    assert frame["n"].cast(pl.Float64).to_list() == list(range(len(ids)))


@pytest.mark.parametrize("start", ["x^1,2", "x\u0001,2", "PK,1"])
def test_text_that_begins_like_a_packed_file_is_text(tmp_path: Path, start: str) -> None:
    (tmp_path / "a.csv").write_text(f"{start}\nb,3\n")
    frame, bad = read_lines(tmp_path / "a.csv", CSV, PLAN, drop=True)
    assert frame.rows()[-1] == ("b", "3")
    assert frame.height + bad == 2


def test_a_header_is_skipped_and_counted_as_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,n\na,1\n\na,x\n")
    with pytest.raises(ValueError, match=r"has 1 bad line\(s\), want an id and a number: line 4: 'a,x'"):
        read_lines(tmp_path / "a.csv", CSV, PLAN, drop=False, skip=1)
    frame, bad = read_lines(tmp_path / "a.csv", CSV, PLAN, drop=True, skip=1)
    assert (frame.rows(), bad) == ([("a", "1")], 1)
