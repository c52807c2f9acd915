"""What the values of a table tell about the settings that read them: wrong units, separators, scales and ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from trackrec.interactions.source import DataError, shown
from trackrec.interactions.sources.cells import LIST_SEPARATOR
from trackrec.interactions.sources.columns import ARGS

_UNITS = {"s": (1e8, 1e11), "ms": (1e11, 1e14), "us": (1e14, 1e17), "ns": (1e17, 1e20)}
"""Numbers that are dates after 1973 in each unit. The ranges don't meet before the year 5138."""
_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_MOST, _SOME, _FEW = 0.5, 0.1, 0.01
_FEWEST_CELLS = 3
_SEPARATORS = ",;|/"


def wrong_unit(numbers: pl.Series, unit: str, name: str, path: Path) -> DataError | None:
    """The error for times that are in another unit than the one set, or in several; None where neither is plain.

    Args:
        numbers: The times as they stand in the file, null where they are no number.
        unit: ``time_unit``.
        name: The column.
        path: The file.
    """
    numbers = numbers.drop_nulls().abs()
    if numbers.is_empty():
        return None
    is_in = {one: (numbers >= low) & (numbers < high) for one, (low, high) in _UNITS.items()}
    shares = {one: float(found.mean() or 0.0) for one, found in is_in.items()}  # type: ignore[arg-type]
    plain = [one for one, share in shares.items() if share >= _FEW]
    if not plain or plain == [unit]:
        return None
    example = {one: f"{numbers.filter(is_in[one])[0]:.0f}" for one in plain}
    if len(plain) > 1:
        parts = " and ".join(f"{shares[one]:.0%} look like {_NAMES[one]} ({example[one]})" for one in plain)
        return DataError(
            f"{ARGS}.columns.timestamp: the times of {name!r} in {path} have several units: {parts}. Write them in one."
        )
    likely = plain[0]
    return DataError(
        f"{ARGS}.time_unit is {unit!r}, but the times of {name!r} in {path} look like {_NAMES[likely]}, such as "
        f"{example[likely]}. Set it to {likely}."
    )


def check_separator(
    cells: pl.Series, separator: str, key: str, name: str, where: str, others: str = _SEPARATORS
) -> None:
    """Check that a column of lists is split, where most of its cells are plainly lists.

    Raises:
        DataError: the separator is in no cell, and another one is in most.
    """
    cells = cells.filter(cells != "").unique(maintain_order=True)
    if cells.len() < _FEWEST_CELLS or cells.str.contains(LIST_SEPARATOR, literal=True).any():
        return
    for other in others.replace(separator, ""):
        has = cells.str.contains(other, literal=True)
        if float(has.mean() or 0.0) > _MOST:  # type: ignore[arg-type]
            raise DataError(
                f"{ARGS}.text.{key} is {separator!r}, which no cell of {name!r} in {where} holds, but {has.sum()} of "
                f"{cells.len()} hold {other!r}, such as {shown([cells.filter(has)[0]])}. Set it to {other!r}"
                f"{', or to null where a cell is a single attribute' if key == 'attribute_separator' else ''}."
            )


def described_users(rated: pl.Series, described: pl.Series, where: str) -> list[str]:
    """A notice where few users of the log are in the users file.

    Raises:
        DataError: none is.
    """
    rated = rated.unique(maintain_order=True)
    if not rated.is_in(described.implode()).any():
        raise DataError(
            f"{ARGS}.users: {where} holds none of the users who rated: it has {shown(described.head(3).to_list())}, "
            f"{ARGS}.ratings has {shown(rated.head(3).to_list())}. Set {ARGS}.user_columns.id to the column with the "
            f"ids of {ARGS}.columns.user."
        )
    return few_known("users", rated, described, f"{ARGS}.users", where)


def few_known(what: str, asked: pl.Series, known: pl.Series, key: str, where: str) -> list[str]:
    """A notice where less than half of what the log asks for is known, with examples; else empty."""
    found = asked.is_in(known.implode())
    if float(found.mean() or 0.0) >= _MOST:  # type: ignore[arg-type]
        return []
    strange = asked.filter(~found).unique(maintain_order=True).head(3).to_list()
    return [
        f"{key}: {where} knows {int(found.sum())} of {found.len()} {what} of the log; it lacks {shown(strange)}. "
        "Are the ids of the same kind?"
    ]


def check_early(early: int, total: int, name: str, where: str) -> None:
    """Check that dates and times aren't all just after 1970, where a number of another unit puts them.

    Raises:
        DataError: they are.
    """
    if early == total:
        raise DataError(
            f"{ARGS}.columns.timestamp: all {total} times of {name!r} in {where} lie in the first months of "
            f"1970. They were made of numbers in another unit: write the numbers, and set {ARGS}.time_unit."
        )


def odd_ratings(ratings: pl.Series, missing: Sequence[float]) -> list[str]:
    """A notice where a frequent rating lies so far from the others that it may stand for "not rated"."""
    found = ratings.value_counts().sort(ratings.name)
    values, counts = found[ratings.name].to_list(), found["count"].to_list()
    if len(values) < 3:
        return []
    notices = []
    for at, inner, end in ((0, 1, -1), (-1, -2, 0)):
        value, next_one, far = values[at], values[inner], values[end]
        frequent = counts[at] >= _SOME * ratings.len()
        below_all = at == 0 and value <= 0 < next_one and counts[at] > 3 * counts[inner]
        far_off = abs(value - next_one) > abs(next_one - far)
        if frequent and (below_all or far_off) and value not in missing:
            low, high = sorted((next_one, far))
            notices.append(
                f"{ARGS}.columns.rating: {counts[at]} of {ratings.len()} ratings are {value:g}, the others go from "
                f"{low:g} to {high:g}. If {value:g} stands for no rating, set {ARGS}.missing_ratings to [{value:g}]."
            )
    return notices
