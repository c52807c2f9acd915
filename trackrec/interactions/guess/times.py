"""Guesses in which unit or pattern a column's times are written. What fits is what `Table` itself can read."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import polars as pl

from trackrec.interactions.guess.look import Column, share
from trackrec.interactions.source import DataError
from trackrec.interactions.sources.columns import Columns, check_time_unit

_TRIED_ROWS = 2000
_GOOD = 0.98
# The least and the largest size of a number of this unit: the years from 1990 to 2100.
_SIZES = {"s": (6.3e8, 4.1e9), "ms": (6.3e11, 4.1e12), "us": (6.3e14, 4.1e15), "ns": (6.3e17, 4.1e18)}
_DAYS = ("%m/%d/%Y", "%d/%m/%Y", "%Y/%m/%d", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y")
_HOURS = ("", " %H:%M:%S", " %H:%M", " %I:%M:%S %p", " %I:%M %p")
_PATTERNS = (
    "iso",
    *(day + hour for day in _DAYS for hour in _HOURS),
    *("%Y%m%d", "%m %d, %Y", "%b %d, %Y", "%B %d, %Y", "%d %b %Y", "%d %B %Y", "%d %b %Y %H:%M:%S"),
    *("%a %b %d %H:%M:%S %z %Y", "%a, %d %b %Y %H:%M:%S %z", "%d/%b/%Y:%H:%M:%S %z"),
)


class Times(NamedTuple):
    """A unit that fits a column, the share of rows with a time, and the days of the first and the last."""

    unit: str
    good: float
    days: str


def fitting_units(column: Column) -> list[Times]:
    """The units that fit a column, best first; two where a day could be a month."""
    if column.is_list or column.texts.is_empty():
        return []
    size = 0.0 if column.numbers is None else float(column.numbers.abs().median() or 0)  # type: ignore[arg-type]
    units: tuple[str, ...] = tuple(unit for unit, (least, most) in _SIZES.items() if least <= size <= most)
    if column.numbers is None:
        units = _PATTERNS
    elif 19_000_101 <= size <= 21_001_231:
        units = ("%Y%m%d",)
    few = column.texts[:_TRIED_ROWS]
    fits = [unit for unit in units if _known(unit) and share(_seconds(few, unit).is_not_null()) >= _GOOD]
    found = []
    for unit in fits:
        seconds = _seconds(column.cells, unit).drop_nulls()
        first, last = (_day(int(each)) for each in (seconds.min(), seconds.max()))  # type: ignore[arg-type]
        found.append(Times(unit, len(seconds) / len(column.cells), f"{first} to {last}"))
    return found


def _known(unit: str) -> bool:
    try:
        check_time_unit(unit)
    except DataError:
        return False
    return True


def _seconds(cells: pl.Series, unit: str) -> pl.Series:
    columns = Columns(Path("log"), {"time": pl.String()})
    columns.time("seconds", "columns.timestamp", "time", unit)
    frame = pl.DataFrame({"time": cells}).select(**columns.exprs, good=columns.good)
    return frame.select(pl.when("good").then("seconds"))["seconds"]


def _day(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d")
