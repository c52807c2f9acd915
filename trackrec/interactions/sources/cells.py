"""Cells that hold a list in writing, and cells that hold a word for nothing."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

import polars as pl

LIST_SEPARATOR = "\x1f"
"""Separates the entries of a list cell once it is read, whatever the file uses."""

UNREAD = LIST_SEPARATOR * 3
"""Before a cell that is written like a list and can't be read."""

NOTHING = [
    "n/a", "#n/a", "na", "<na>", "nan", "nat", "null", "none", "nil", "\\n", "unknown", "undefined", "not available",
    "(no genres listed)", "(none)", "(null)", "(unknown)", "-", "--", "?",
]  # fmt: skip
"""Words for nothing that tools write, in small letters."""

_BRACKETS = {"[": "]", "{": "}", "(": ")"}
_LIKE_A_LIST = r"""^(?:\[.*\]|\{.*\}|\(['"].*\)|[\[{]\s*['"{\[].*)$"""
_QUOTE_GAP = re.compile(r"""(?<=['"])\s+(?=['"])""")  # NumPy writes ['a' 'b'], which Python reads as 'ab'
_LONGEST_CELL = 1_000_000


def is_nothing(text: pl.Expr) -> pl.Expr:
    """Whether a text is one of `NOTHING`."""
    return text.str.to_lowercase().is_in(NOTHING)


def list_cells(cells: pl.Series, separator: str | None, field: str | None) -> pl.Series:
    """The entries of text cells with `LIST_SEPARATOR` between them; `UNREAD` and the cell where they can't be read.

    Args:
        cells: Text between ``separator`` (None: a cell is one entry), or a list as JSON, Python and NumPy write it.
        separator: Between the entries.
        field: Of the entries that are records, the field to take.
    """
    like_lists = cells.str.contains(_LIKE_A_LIST)
    if separator is None:
        plain = cells
    elif separator.isspace():
        plain = cells.str.replace_all(separator, LIST_SEPARATOR, literal=True)
    else:
        plain = cells.str.replace_all(rf"\s*{re.escape(separator)}\s*", LIST_SEPARATOR)
    plain = plain.str.strip_chars(LIST_SEPARATOR)
    if not like_lists.any():
        return plain
    distinct = cells.filter(like_lists).unique()
    read = [_written_list(cell, field) for cell in distinct.to_list()]
    joined = [
        UNREAD + cell if entries is None else LIST_SEPARATOR.join(entries)
        for cell, entries in zip(distinct.to_list(), read, strict=True)
    ]
    found = cells.replace_strict(distinct, pl.Series(joined, dtype=pl.String), default=None, return_dtype=pl.String)
    return found.zip_with(like_lists, plain)


def record_fields(cell: str) -> list[str]:
    """The fields of the records in a cell; empty where it holds none."""
    value = _literal(cell)
    entries = value if isinstance(value, list | tuple) else [value]
    return [str(key) for key in entries[0]] if entries and isinstance(entries[0], dict) else []


def _written_list(cell: str, field: str | None) -> list[str] | None:
    """The entries of a list in writing; None if it can't be read, or holds records and no field is wanted."""
    value = _literal(cell)
    if value is None:
        bare = cell[1:-1]
        if cell[-1:] != _BRACKETS[cell[0]] or re.search(r"""[\[\]{}'"]""", bare):
            return None
        # [Comedy, Indie], and [101 102] as NumPy writes numbers
        words = bare.split(",") if "," in bare else bare.split() if re.fullmatch(r"[\d\s.+-]*", bare) else [bare]
        value = [word.strip() for word in words]
    try:
        return [entry for entry in _entries(value, field) if entry]
    except (KeyError, TypeError):
        return None


def _literal(cell: str) -> Any:
    """What JSON or Python reads; None if neither does."""
    if len(cell) > _LONGEST_CELL:
        return None
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(_QUOTE_GAP.sub(", ", cell))
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None


def _entries(value: Any, field: str | None) -> Iterator[str]:
    """Texts, from lists in lists too.

    Raises:
        KeyError: a record lacks the field.
        TypeError: a record where no field is wanted, or none where one is.
    """
    if value is None or value != value:  # NaN
        return
    if isinstance(value, list | tuple | set):
        for one in sorted(value, key=str) if isinstance(value, set) else value:
            yield from _entries(one, field)
    elif isinstance(value, dict):
        if field is None:
            raise TypeError("a record")
        yield from _entries(value[field], None)
    elif field is not None:
        raise TypeError("no record")
    else:
        yield str(value).strip().replace(LIST_SEPARATOR, " ")
