"""Parses a file's columns with strict polars expressions: a row with a value that doesn't parse is a bad row."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import polars as pl

from trackrec.interactions.ids import id_column
from trackrec.interactions.source import LAST_SECOND, DataError, shown
from trackrec.interactions.sources.cells import LIST_SEPARATOR, is_nothing, list_cells
from trackrec.runtime.errors import reason

ARGS = "dataset.init_args"
_LAST_POSITION = 2**31 - 1
_FIRST_YEAR, _LAST_YEAR = 1000, 2100
PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
COUNT, LOST = "count ", "lost "
EARLY = "times_in_early_1970"
_EARLY_SECONDS = 1e7
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
        drop: Take a field that a row can live without as unknown, and count it, where it doesn't parse.
    """

    def __init__(self, path: Path, schema: Mapping[str, pl.DataType], drop: bool = False) -> None:
        self.path, self.schema, self.drop = path, schema, drop
        self.needs: list[str] = []
        self.exprs: dict[str, pl.Expr] = {}
        self.separated: set[str] = set()
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
        """An id, never empty, by the rule of `trackrec.interactions.ids`."""
        self._single(key, name)
        value, changed, lost = id_column(pl.col(name), self.schema[name])
        self.exprs[f"{LOST}{out} {key}"] = lost
        self.count("ids_normalised", out, changed)
        self._add(out, value, value != "", f"an id in {name!r}")

    def number(self, out: str, key: str, name: str) -> None:
        """A finite number."""
        value = self._number(key, name, pl.Float32)
        self._add(out, value, value.is_finite(), f"a number in {name!r}")

    def any_number(self, out: str, key: str, name: str) -> None:
        """A number; null where it is none. For a look at a column that can't be read."""
        self.exprs[out] = self._number(key, name, pl.Float64)

    def label(self, out: str, key: str, name: str) -> None:
        """0 or 1, as number or as true and false."""
        value = self._number(key, name, pl.Float32)
        if self.schema[name] == pl.String:
            words = self._string(key, name).str.to_lowercase()
            value = pl.when(words == "true").then(1.0).when(words == "false").then(0.0).otherwise(value)
        self._add(out, value.cast(pl.Float32), value.is_in([0.0, 1.0]), f"0 or 1 in {name!r}")

    def position(self, out: str, key: str, name: str) -> None:
        """A position in a list, from 1; null where it is unknown."""
        text, value = self._string(key, name), self._number(key, name, pl.Float64)
        good = (value >= 1) & (value <= _LAST_POSITION) & (value == value.floor())
        self.exprs[out] = value.cast(pl.Int32, strict=False)
        self._field(out, text, good, pl.lit(False), f"a position from 1 on or nothing in {name!r}")

    def year(self, out: str, key: str, name: str) -> None:
        """The first group of exactly four digits in a year or a date; null where unknown.

        A number of fewer digits, and 0000, 8888 and 9999 as tools write them for nothing, are no year.
        """
        text = self._string(key, name)
        year = text.str.extract(r"(?:^|\D)(\d{4})(?:\D|$)").cast(pl.Int32, strict=False)
        good = year.is_between(_FIRST_YEAR, _LAST_YEAR)
        number = text.cast(pl.Float64, strict=False)
        self.exprs[out] = year
        nothing = year.is_not_null() | (number.abs() < _FIRST_YEAR)
        self._field(out, text, good, nothing, f"a year or nothing in {name!r}")

    def time(self, out: str, key: str, name: str, unit: str) -> None:
        """Seconds since 1970, UTC, from a number, ISO-8601 text, text of a pattern, or a Parquet date or time."""
        self._need(key, name)
        if self.schema[name] in (pl.Date, pl.Datetime):
            seconds = pl.col(name).cast(pl.Datetime("us")).dt.epoch("s").cast(pl.Float64)
        elif unit in PER_SECOND:
            seconds = (self._number(key, name, pl.Float64) / PER_SECOND[unit]).floor()
        else:
            text = self._string(key, name)
            when = _iso(text) if unit == "iso" else _by_pattern(text, unit)
            seconds = when.dt.epoch("s").cast(pl.Float64)
        good = seconds.is_finite() & (seconds.abs() < LAST_SECOND)
        if unit in PER_SECOND and self.schema[name] not in (pl.Date, pl.Datetime):
            good &= ~_in_larger_unit(self._number(key, name, pl.Float64), unit)
        else:
            self.count(EARLY, out, seconds.abs() < _EARLY_SECONDS)
        self._add(out, seconds.cast(pl.Int64, strict=False), good, f"a time ({ARGS}.time_unit: {unit}) in {name!r}")

    def split(self, out: str, key: str, name: str) -> None:
        """train, valid or test, under any of their names."""
        word = self._string(key, name).str.to_lowercase()
        value = word.replace_strict(_SPLITS, default=None, return_dtype=pl.String)
        self._add(out, value, value.is_not_null(), f"train, valid or test in {name!r}")

    def entries(self, out: str, key: str, name: str, separator: str | None) -> None:
        """A list's entries, joined by ``LIST_SEPARATOR``; `UNREAD` before a cell whose list can't be read.

        Text is split at the separator, or is a list as JSON, Python or NumPy writes it. ``name`` may end in a point and
        the field to take of entries that are records.
        """
        name, field = self._field_of(name)
        dtype = self.schema.get(name)
        if isinstance(dtype, pl.List | pl.Array):
            self._need(key, name)
            inner, element = dtype.inner, pl.element()
            if isinstance(inner, pl.Struct):
                fields = [one.name for one in inner.fields]
                if field not in fields:
                    raise self._no_field(key, name, fields)
                element = element.struct.field(field)
            column = pl.col(name).arr.to_list() if isinstance(dtype, pl.Array) else pl.col(name)
            cells = column.list.eval(element.cast(pl.String))
            self.exprs[out] = cells.list.join(LIST_SEPARATOR, ignore_nulls=True).fill_null("")
            # Blocks of one file of records may differ in this type; their columns may not.
            self.count(f"{out.rstrip('_0123456789')}_lists_parsed", out, pl.lit(False))
            return
        if isinstance(dtype, pl.Struct):
            fields = [one.name for one in dtype.fields]
            if field not in fields:
                raise self._no_field(key, name, fields)
            self._need(key, name)
            text = pl.col(name).struct.field(field).cast(pl.String).fill_null("").str.strip_chars()
            field = None
        else:
            text = self._string(key, name)
        self.separated.add(out)
        self.exprs[out] = text.map_batches(
            partial(list_cells, separator=separator, field=field), return_dtype=pl.String(), is_elementwise=True
        )
        self.count(f"{out.rstrip('_0123456789')}_lists_parsed", out, text.str.contains(r"^[\[{]"))

    def count(self, name: str, of: str, where: pl.Expr) -> None:
        """Count rows under a name in `Ratings.counts`, where there are any."""
        self.exprs[f"{COUNT}{name} {of}"] = where.fill_null(False)

    def _field_of(self, name: str) -> tuple[str, str | None]:
        """A column, and the field of its records where the name has one."""
        column, point, field = name.rpartition(".")
        return (column, field) if name not in self.schema and point and column in self.schema else (name, None)

    def _no_field(self, key: str, name: str, fields: list[str]) -> DataError:
        return DataError(
            f"{ARGS}.{key}: column {name!r} of {self.path} holds records with {shown(fields)}. Name the field to take, "
            f"such as {f'{name}.{fields[-1]}'!r}."
        )

    def _field(self, out: str, text: pl.Expr, good: pl.Expr, nothing: pl.Expr, want: str) -> None:
        """A value that a row can live without: null where the cell is empty or stands for nothing, which is counted.

        What is left is a bad row, or with ``drop`` a bad field, which is unknown and counted.
        """
        good = good.fill_null(False)
        empty = text == ""
        nothing = (nothing.fill_null(False) | is_nothing(text)) & ~good & ~empty
        self.exprs[out] = pl.when(good).then(self.exprs[out])
        self.count(f"{out}s_unknown", out, nothing)
        if self.drop:
            self.count(f"bad_{out}s", out, ~(good | empty | nothing))
        else:
            self.require(good | empty | nothing, want)

    def require(self, good: pl.Expr, want: str) -> None:
        """Add a condition for a good row, on the file's columns or those in `exprs`."""
        self._good.append(good)
        self._wants.append(want)

    def _add(self, out: str, value: pl.Expr, good: pl.Expr, want: str) -> None:
        self.exprs[out] = value
        self.require(good, want)

    def _string(self, key: str, name: str) -> pl.Expr:
        self._single(key, name)
        return pl.col(name).cast(pl.String).fill_null("").str.strip_chars()

    def _number(self, key: str, name: str, dtype: type[pl.DataType]) -> pl.Expr:
        text = self._string(key, name)
        return (text if self.schema[name] == pl.String else pl.col(name)).cast(dtype, strict=False)

    def _single(self, key: str, name: str) -> None:
        self._need(key, name)
        if self.schema[name].is_nested():
            raise DataError(
                f"{ARGS}.{key}: column {name!r} of {self.path} holds {self.schema[name]}, want single values."
            )

    def _need(self, key: str, name: str) -> None:
        if name not in self.schema:
            raise missing_column(key, name, self.path, list(self.schema))
        if name not in self.needs:
            self.needs.append(name)


def _in_larger_unit(number: pl.Expr, unit: str) -> pl.Expr:
    """Whether a number is a date of our days in a unit larger than the one given, with which it lies in early 1970."""
    return (number.abs() >= 1e8) & (number.abs() < _EARLY_SECONDS * PER_SECOND[unit])


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
    if unit == "iso" or unit in PER_SECOND:
        return
    why = ""
    if "%" in unit:
        try:
            pl.select(_by_pattern(pl.lit("2000-01-01"), unit))
            return
        except pl.exceptions.PolarsError as error:
            why = f" ({reason(error)})"
    raise DataError(
        f"{ARGS}.time_unit must be 's', 'ms', 'us', 'ns', 'iso' or a pattern such as '%d.%m.%Y %H:%M:%S', "
        f"got {unit!r}{why}."
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
