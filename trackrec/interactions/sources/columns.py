"""Parses a file's columns with strict polars expressions: a row with a value that doesn't parse is a bad row."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from trackrec.interactions.source import LAST_SECOND, DataError, shown
from trackrec.runtime.errors import reason

ARGS = "dataset.init_args"
LIST_SEPARATOR = "\x1f"
"""Separates the entries of a list cell once it is read, whatever the file uses."""

_LAST_POSITION = 2**31 - 1
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000}
_SPLITS = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("valid", "validation", "validate", "val", "dev", "development"), "valid"),
    **dict.fromkeys(("test", "testing", "te"), "test"),
}


class Columns:
    """The columns of one file that are read, as expressions, and what makes a row good.

    Args:
        path: The file, for errors.
        schema: Its columns and their types; text files hold strings only.
    """

    def __init__(self, path: Path, schema: Mapping[str, pl.DataType]) -> None:
        self.path, self.schema = path, schema
        self.needs: list[str] = []
        self.exprs: dict[str, pl.Expr] = {}
        self._good: list[pl.Expr] = []
        self._wants: list[str] = []

    @property
    def good(self) -> pl.Expr:
        """Whether a row can be used."""
        return pl.all_horizontal([good.fill_null(False) for good in self._good] or [pl.lit(True)])

    @property
    def wants(self) -> str:
        """What a good row holds, for error messages."""
        return f"want {', '.join(self._wants)}"

    def text(self, out: str, key: str, name: str) -> None:
        """Any text; empty where it is null."""
        self.exprs[out] = self._string(key, name)

    def id(self, out: str, key: str, name: str) -> None:
        """An id, never empty. Whole floats (pandas turns integers with gaps into them) are read as integers."""
        column = self._string(key, name)
        if self.schema[name].is_float():
            value = pl.col(name)
            integer = pl.when(value == value.round()).then(value).cast(pl.Int64, strict=False)
            column = integer.cast(pl.String).fill_null("")
        self._add(out, column, column != "", f"an id in {name!r}")

    def number(self, out: str, key: str, name: str) -> None:
        """A finite number."""
        value = self._number(key, name, pl.Float32)
        self._add(out, value, value.is_finite(), f"a number in {name!r}")

    def label(self, out: str, key: str, name: str) -> None:
        """0 or 1, as number or as true and false."""
        value = self._number(key, name, pl.Float32)
        if self.schema[name] == pl.String:
            words = self._string(key, name).str.to_lowercase()
            value = pl.when(words == "true").then(1.0).when(words == "false").then(0.0).otherwise(value)
        self._add(out, value.cast(pl.Float32), value.is_in([0.0, 1.0]), f"0 or 1 in {name!r}")

    def position(self, out: str, key: str, name: str) -> None:
        """A position in a list, from 1; null where it is unknown."""
        value = self._number(key, name, pl.Float64)
        good = (self._string(key, name) == "") | ((value >= 1) & (value <= _LAST_POSITION) & (value == value.floor()))
        self._add(out, value.cast(pl.Int32, strict=False), good, f"a position from 1 on or nothing in {name!r}")

    def year(self, out: str, key: str, name: str) -> None:
        """The first group of exactly four digits in a year or a date; null where unknown."""
        text = self._string(key, name)
        year = text.str.extract(r"(?:^|\D)(\d{4})(?:\D|$)").cast(pl.Int32, strict=False)
        self._add(out, year, (text == "") | year.is_not_null(), f"a year or nothing in {name!r}")

    def time(self, out: str, key: str, name: str, unit: str) -> None:
        """Seconds since 1970, UTC, from a number, ISO-8601 text, text of a pattern, or a Parquet date or time."""
        self._need(key, name)
        if self.schema[name] in (pl.Date, pl.Datetime):
            seconds = pl.col(name).cast(pl.Datetime("us")).dt.epoch("s").cast(pl.Float64)
        elif unit in _PER_SECOND:
            seconds = (self._number(key, name, pl.Float64) / _PER_SECOND[unit]).floor()
        else:
            text = self._string(key, name)
            when = _iso(text) if unit == "iso" else _by_pattern(text, unit)
            seconds = when.dt.epoch("s").cast(pl.Float64)
        good = seconds.is_finite() & (seconds.abs() < LAST_SECOND)
        self._add(out, seconds.cast(pl.Int64, strict=False), good, f"a time ({ARGS}.time_unit: {unit}) in {name!r}")

    def split(self, out: str, key: str, name: str) -> None:
        """train, valid or test, under any of their names."""
        word = self._string(key, name).str.to_lowercase()
        value = word.replace_strict(_SPLITS, default=None, return_dtype=pl.String)
        self._add(out, value, value.is_not_null(), f"train, valid or test in {name!r}")

    def entries(self, out: str, key: str, name: str, separator: str) -> None:
        """A list's entries, joined by ``LIST_SEPARATOR``."""
        if isinstance(self.schema.get(name), pl.List):
            self._need(key, name)
            cells = pl.col(name).list.eval(pl.element().cast(pl.String))
            self.exprs[out] = cells.list.join(LIST_SEPARATOR, ignore_nulls=True).fill_null("")
        else:
            text = self._string(key, name).str.replace_all(separator, LIST_SEPARATOR, literal=True)
            self.exprs[out] = text.str.strip_chars(LIST_SEPARATOR)

    def require(self, good: pl.Expr, want: str) -> None:
        """Add a condition for a good row, on the file's columns or those in `exprs`."""
        self._good.append(good)
        self._wants.append(want)

    def _add(self, out: str, value: pl.Expr, good: pl.Expr, want: str) -> None:
        self.exprs[out] = value
        self.require(good, want)

    def _string(self, key: str, name: str) -> pl.Expr:
        self._need(key, name)
        if self.schema[name].is_nested():
            raise DataError(
                f"{ARGS}.{key}: column {name!r} of {self.path} holds {self.schema[name]}, want single values."
            )
        return pl.col(name).cast(pl.String).fill_null("").str.strip_chars()

    def _number(self, key: str, name: str, dtype: type[pl.DataType]) -> pl.Expr:
        text = self._string(key, name)
        return (text if self.schema[name] == pl.String else pl.col(name)).cast(dtype, strict=False)

    def _need(self, key: str, name: str) -> None:
        if name not in self.schema:
            raise missing_column(key, name, self.path, list(self.schema))
        if name not in self.needs:
            self.needs.append(name)


def missing_column(key: str, name: str, path: Path, have: list[str]) -> DataError:
    """The error for a key that names no column of a file."""
    near = difflib.get_close_matches(name, have, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    if len(have) == 1 and have[0] != name:
        hint = f" Is {ARGS}.text.separator right?"
    if have == [str(number) for number in range(1, len(have) + 1)]:
        hint += f" With {ARGS}.text.header: false columns are called by their number."
    return DataError(f"{ARGS}.{key} names no column of {path}: got {name!r}, it has {shown(have)}.{hint}")


def check_time_unit(unit: str) -> None:
    """Check ``time_unit``.

    Raises:
        DataError: it is neither a unit nor a pattern that polars knows.
    """
    if unit == "iso" or unit in _PER_SECOND:
        return
    why = ""
    if "%" in unit:
        try:
            pl.select(_by_pattern(pl.lit("2000-01-01"), unit))
            return
        except pl.exceptions.PolarsError as error:
            why = f" ({reason(error)})"
    raise DataError(
        f"{ARGS}.time_unit must be 's', 'ms', 'us', 'iso' or a pattern such as '%d.%m.%Y %H:%M:%S', got {unit!r}{why}."
    )


def _by_pattern(text: pl.Expr, pattern: str) -> pl.Expr:
    zone = "UTC" if "%z" in pattern or "%:z" in pattern or "%#z" in pattern else None
    return text.str.strptime(pl.Datetime("us", zone), pattern, strict=False)


def _iso(text: pl.Expr) -> pl.Expr:
    """ISO-8601 to UTC: a date means its midnight, a time without an offset is UTC, seconds may be left out."""
    iso = text.str.replace(r"^(\d{4}-\d\d-\d\d)$", "${1}T00:00:00").str.replace(r"^(\d{4}-\d\d-\d\d) ", "${1}T")
    iso = iso.str.replace(r"T(\d\d:\d\d)($|[Zz+-])", "T${1}:00${2}").str.replace(r" ?(?:[Zz]| ?UTC)$", "+00:00")
    offset = iso.str.contains(r"T.*[+-]\d\d(:?\d\d)?$")
    iso = pl.when(offset).then(iso.str.replace(r"([+-]\d\d)$", "${1}:00")).otherwise(iso + "+00:00")
    return iso.str.strptime(pl.Datetime("us", "UTC"), "%Y-%m-%dT%H:%M:%S%.f%z", strict=False)
