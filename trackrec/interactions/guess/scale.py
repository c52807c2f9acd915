"""Guesses above which rating an item is liked, from the ratings that occur."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from trackrec.interactions.guess.choices import Candidate
from trackrec.interactions.guess.look import Column, share
from trackrec.interactions.guess.names import AMOUNTS, tokens

_MOST_STEPS = 100
_LIKED_SHARE = 0.6  # of the top of a scale: above 3 of 5, 6 of 10, 60 of 100
_TOPS = (5, 6, 7, 10, 20, 100)


class Scale(NamedTuple):
    """What a column of ratings holds.

    Attributes:
        thresholds: the candidates; a rating above one is a like.
        amount: whether the ratings count something (plays, hours) and don't judge.
        missing: the rating that seems to stand for none, if any.
    """

    thresholds: list[Candidate]
    amount: bool
    missing: float | None


def is_scale(values: pl.Series) -> bool:
    """Whether numbers are grades: few, and in even steps."""
    found = values.unique().sort()
    if not 2 <= len(found) <= _MOST_STEPS + 1 or float(found.abs().max()) > _MOST_STEPS:  # type: ignore[arg-type]
        return False
    steps = (found - found[0]) / float(found.diff().min())  # type: ignore[arg-type]
    return bool(((steps - steps.round()).abs() < 1e-6).all()) and float(steps[-1]) <= _MOST_STEPS


def guess_scale(column: Column, numbers: pl.Series) -> Scale:
    """The scale of the ratings in a column."""
    if set(tokens(column.name)) & AMOUNTS or not is_scale(numbers):
        middle = float(f"{float(np.median(numbers.to_numpy())):.2g}")
        why = f"{span(numbers)}, half are at most {middle:g}: liked above {middle:g}"
        return Scale([Candidate(middle, 1.0, why)], True, None)
    missing = _missing(numbers)
    given = numbers if missing is None else numbers.filter(numbers != missing)
    low, high = float(given.min()), float(given.max())  # type: ignore[arg-type]
    often = float(given.mode().max())  # type: ignore[arg-type]
    if low < 0 or high <= _TOPS[0] - 1:
        best = float((low + high) // 2)
    else:
        best = float(int(_LIKED_SHARE * next((top for top in _TOPS if high <= top), high)))
    candidates = [Candidate(best, 1.0, _why(low, high, often, best))]
    liked = share(given > best)
    if not 0.1 <= liked <= 0.9:
        # Hardly anything to tell apart: the grade that comes nearest to two halves is close too.
        grades = [float(each) for each in given.unique().sort()[:-1]]
        even = min(grades, key=lambda each: abs(share(given > each) - 0.5))
        if even != best:
            part = share(given > even)
            why = f"{_why(low, high, often, even)}, {part:.0%} of the rows; above {best:g} are {liked:.0%}"
            usable = 0 < liked < 1
            candidates = [candidates[0]] * usable + [Candidate(even, 0.5, why)]
    return Scale(candidates, False, missing)


def _missing(numbers: pl.Series) -> float | None:
    """0 below whole grades from 1: "read, not rated" in many logs."""
    others = numbers.filter(numbers != 0)
    whole = bool((others == others.round()).all()) and not others.is_empty()
    zeros = len(numbers) - len(others)
    return 0.0 if zeros and whole and others.n_unique() >= 4 and float(others.min()) >= 1 else None  # type: ignore[arg-type]


def _why(low: float, high: float, often: float, threshold: float) -> str:
    return f"{low:g} to {high:g}, most frequent {often:g}: liked above {threshold:g}"


def span(numbers: pl.Series) -> str:
    """The least and the largest, as 1 to 5."""
    values = numbers.to_numpy()
    return f"{values.min():g} to {values.max():g}"
