"""The one rule for ids, in logs, items, users and requests: they are text, and one id has one spelling.

A column of whole numbers that once held a gap, or went through a spreadsheet, says 1.0 where another file says 1.
"""

from __future__ import annotations

from typing import NamedTuple

import polars as pl

LOST_DIGITS = "have lost digits, so that different ids may have become one. Write the column as text"
"""What is wrong with numbers above 2**53 that were kept as floats, and with 1.23e+17, and what to do."""

_EXACT = float(2**53)
_POINT_ZERO = r"^([+-]?\d+)\.0+$"
# As tools write it, one digit before the point and a signed exponent: 5e10 without either may be hexadecimal.
_SCIENTIFIC = r"^[+-]?\d(?:\.\d+[eE][+-]?|[eE]\+)\d+$"
_NO_ID = ["nan", "NaN", "null", "NULL", "None", "<NA>", "N/A", "#N/A", "\\N"]


class IdColumn(NamedTuple):
    """Expressions of an id column.

    Attributes:
        value: the id as text, with 1 in the place of 1.0; empty where there is none, or a word that tools write for it.
        changed: whether the file spells it in another way.
        lost: whether it is a number that can't be told from its neighbours any more; its value stands as in the file.
    """

    value: pl.Expr
    changed: pl.Expr
    lost: pl.Expr


def id_column(column: pl.Expr, dtype: pl.DataType) -> IdColumn:
    """Read ids of any single-valued type. A float with a fraction is no id."""
    text = column.cast(pl.String).fill_null("").str.strip_chars()
    if dtype.is_float():
        whole = (column == column.round()) & column.is_finite()
        lost = (whole & (column.abs() > _EXACT)).fill_null(False)
        integer = pl.when(whole & ~lost).then(column).cast(pl.Int64, strict=False).cast(pl.String).fill_null("")
        return IdColumn(pl.when(lost).then(text).otherwise(integer), whole.fill_null(False) & ~lost, lost)
    pointed = text.str.contains(_POINT_ZERO)
    lost = text.str.contains(_SCIENTIFIC) | (pointed & (text.cast(pl.Float64, strict=False).abs() > _EXACT))
    lost = lost.fill_null(False)
    value = pl.when(text.is_in(_NO_ID)).then(pl.lit("")).when(lost).then(text)
    return IdColumn(value.otherwise(text.str.replace(_POINT_ZERO, "${1}")), pointed & ~lost, lost)
