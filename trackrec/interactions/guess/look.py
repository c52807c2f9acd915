"""The first rows of a file, and the form in which they stand there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import NamedTuple

import polars as pl

from trackrec.interactions.guess.layout import SEPARATORS, guess_layout, is_header
from trackrec.interactions.source import DataError, refuse_utf16
from trackrec.interactions.sources.delimited import header_names
from trackrec.interactions.sources.files import find_files
from trackrec.interactions.sources.records import JSON_ENDINGS, Kind, first_records, record_kind
from trackrec.interactions.sources.text_format import TextFormat
from trackrec.interactions.sources.unpack import open_plain
from trackrec.runtime.errors import reason

_MOST_ROWS = 50_000
_MOST_BYTES = 8 << 20
_PARQUET = (".parquet", ".pq")
_LISTS = [pl.List(kind) for kind in (pl.String, pl.Int64, pl.Int32, pl.UInt32, pl.UInt64, pl.Int16, pl.Categorical)]


def share(flags: pl.Series) -> float:
    """The share of the true ones."""
    return float(flags.to_numpy().mean()) if len(flags) else 0.0


class Column:
    """A column of the rows looked at.

    Attributes:
        name: as files and settings call it.
        place: from 0.
        cells: text, stripped, "" where there is none; or lists of text.
    """

    def __init__(self, name: str, place: int, cells: pl.Series) -> None:
        self.name, self.place = name, place
        self.is_list = isinstance(cells.dtype, pl.List)
        self.cells = cells if self.is_list else cells.cast(pl.String).fill_null("").str.strip_chars()

    @cached_property
    def filled(self) -> float:
        """The share of rows with a value."""
        if self.is_list:
            return share(self.cells.list.len().fill_null(0) > 0)
        return share(self.cells != "")

    @cached_property
    def texts(self) -> pl.Series:
        """The values that are there; of lists, their entries."""
        cells = self.cells.explode(empty_as_null=True).drop_nulls() if self.is_list else self.cells
        return cells.filter(cells != "")

    @cached_property
    def distinct(self) -> int:
        """How many different values there are."""
        return self.texts.n_unique()

    @cached_property
    def numbers(self) -> pl.Series | None:
        """The values as numbers, if all are."""
        if self.is_list or self.texts.is_empty():
            return None
        numbers = self.texts.cast(pl.Float64, strict=False)
        return numbers if numbers.is_finite().fill_null(False).all() else None

    @property
    def repeats(self) -> float:
        """How often a value occurs, on average."""
        return len(self.texts) / max(self.distinct, 1)


@dataclass(frozen=True)
class Look:
    """The first rows of what ``--ratings``, ``--items`` or ``--users`` names.

    Attributes:
        where: as it was given.
        paths: the files; the first one was looked at.
        form: of a text file of fields; of others only ``format`` counts.
        kind: how a person calls the form.
        columns: in their order.
        rows: how many there are.
        whole: whether these are all rows of the file.
        broken: records that couldn't be read.
        quotes: whether there is a quotation mark anywhere in the text.
    """

    where: str
    paths: Sequence[Path]
    form: TextFormat
    kind: str
    columns: Sequence[Column]
    rows: int
    whole: bool
    broken: int = 0
    quotes: bool = False

    @property
    def has_fields(self) -> bool:
        """Whether the file is text of fields, to which the separator and the quotation mark belong."""
        return self.kind == "fields"

    def column(self, name: str) -> Column:
        """A column by its name."""
        return next(column for column in self.columns if column.name == name)


def look_at(where: str, key: str) -> Look:
    """The first rows of a file, of a folder of Parquet parts, or of the first file that a glob names.

    Args:
        where: the place.
        key: ``ratings``, ``items`` or ``users``.

    Raises:
        DataError: there is no such file, it is empty, or no separator splits its lines.
    """
    paths = find_files(key, where)
    path, typed = paths[0], f"--{key}"
    if path.suffix.lower() in _PARQUET:
        found = _parquet(path, typed)
        look = Look(where, paths, TextFormat(), "Parquet", (), found.frame.height, found.whole)
        return _with_columns(look, found.frame)
    text, name, whole = _start(path, typed)
    named = PurePath(name).suffix.lower() in JSON_ENDINGS
    if named or text.lstrip().startswith("{"):
        kind = record_kind(path, typed)
        records, whole = first_records(path, typed, kind, _MOST_ROWS)
        if records:
            form = TextFormat(format="auto" if named else kind)
            look = Look(where, paths, form, _KINDS[kind], (), len(records), whole)
            return _with_columns(look, _table(records))
        if named:
            raise DataError(f"{typed}: {path} has no line that holds a JSON object. Is it another format?")
    return _fields(where, paths, typed, text, whole)


_KINDS: dict[Kind, str] = {"json": "JSON objects", "python": "Python dicts"}


class _Rows(NamedTuple):
    frame: pl.DataFrame
    whole: bool


def _with_columns(look: Look, frame: pl.DataFrame) -> Look:
    usable = [series for series in frame if not series.dtype.is_nested() or series.dtype == pl.List(pl.String)]
    return replace(look, columns=[Column(series.name, place, series) for place, series in enumerate(usable)])


def _parquet(path: Path, key: str) -> _Rows:
    try:
        frame = pl.scan_parquet(path, glob=False).head(_MOST_ROWS + 1).collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise DataError(f"{key}: {path} can't be read as Parquet ({reason(error)}).") from error
    if frame.is_empty():
        raise DataError(f"{key}: {path} is empty: it has no rows.")
    lists = [pl.col(series.name) for series in frame if series.dtype in _LISTS]
    frame = frame.with_columns(each.cast(pl.List(pl.String)) for each in lists)
    return _Rows(frame.head(_MOST_ROWS), frame.height <= _MOST_ROWS)


def _start(path: Path, key: str) -> tuple[str, str, bool]:
    """The first whole lines of a text file, its name unpacked, and whether these are all."""
    data = b""
    with open_plain(path, key) as file:
        while len(data) < _MOST_BYTES and (more := file.read(_MOST_BYTES - len(data))):
            data += more
        whole, name = not file.read(1), file.name
    refuse_utf16(path, data[:4], key)
    if not data.strip():
        raise DataError(f"{key}: {path} is empty. Name the file that holds the rows.")
    if not whole:
        data = data[: data.rfind(b"\n") + 1] or data
    try:
        return data.decode("utf-8-sig"), name, whole
    except UnicodeDecodeError:
        return data.decode("latin-1"), name, whole


def _fields(where: str, paths: Sequence[Path], key: str, text: str, whole: bool) -> Look:
    layout = guess_layout(text)
    if layout is None:
        first = text.strip().splitlines()[0][:80]
        tried = ", ".join(json.dumps(each) for each in SEPARATORS)
        raise DataError(
            f"{key}: {paths[0]} has one column: its lines hold none of {tried} the same number of times. It begins "
            f"{first!r}. A file of ratings needs at least a user, an item and a rating in each line."
        )
    header = is_header(layout.rows[0], layout.rows[1:])
    rows = layout.rows[header : header + _MOST_ROWS]
    if not rows:
        raise DataError(f"{key}: {paths[0]} has a header and no rows.")
    names = header_names(layout.rows[0]) if header else [str(number + 1) for number in range(layout.width)]
    form = TextFormat(layout.separator, header, layout.quote, layout.escape)
    frame = pl.DataFrame(dict(zip(names, zip(*rows, strict=True), strict=True)), schema=dict.fromkeys(names, pl.String))
    whole = whole and len(layout.rows) - header <= _MOST_ROWS
    return _with_columns(Look(where, paths, form, "fields", (), len(rows), whole, layout.broken, layout.quotes), frame)


def _table(records: list[dict[str, str | list[str] | None]]) -> pl.DataFrame:
    names = dict.fromkeys(name for record in records for name in record)
    series = []
    for name in names:
        cells = [record.get(name) for record in records]
        if any(isinstance(cell, list) for cell in cells):
            lists = [cell if isinstance(cell, list) or cell is None else [cell] for cell in cells]
            series.append(pl.Series(name, lists, dtype=pl.List(pl.String)))
        else:
            series.append(pl.Series(name, cells, dtype=pl.String))
    return pl.DataFrame(series)
