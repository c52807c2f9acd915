"""Durations and sizes with their units; a plain number stays what it was."""

from __future__ import annotations

from typing import Any

import pytest

from trackrec.runtime.quantities import parse_bytes, parse_gib, parse_seconds


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        *((60, 60.0), (1.5, 1.5), ("45", 45.0), ("90s", 90.0), ("10min", 600.0), ("10 minutes", 600.0)),
        *(("1.5h", 5400.0), ("1h30min", 5400.0), ("1h 30min", 5400.0), ("2d", 172800.0), ("250ms", 0.25)),
    ],
)
def test_durations(given: Any, seconds: float) -> None:
    assert parse_seconds(given) == seconds


@pytest.mark.parametrize("given", ["ten", "10 apples", "min", "", "1h30", "-5s", "1h,30min", None, True, [1]])
def test_other_durations_are_refused(given: Any) -> None:
    with pytest.raises(ValueError, match=r"^a duration such as 90s, 10min"):
        parse_seconds(given)


@pytest.mark.parametrize(
    ("given", "gib"),
    [(4, 4.0), ("0.5", 0.5), ("4GiB", 4.0), ("800MiB", 0.78125), ("1 TiB", 1024.0), ("512kib", 2**-11)],
)
def test_sizes(given: Any, gib: float) -> None:
    assert parse_gib(given) == gib


def test_decimal_sizes_are_decimal() -> None:
    assert (parse_bytes("16GB"), parse_bytes("1.5MB"), parse_bytes("7 b")) == (16 * 10**9, 1_500_000, 7)


@pytest.mark.parametrize("given", ["4 apples", "GiB", "-4GiB", "", True])
def test_other_sizes_are_refused(given: Any) -> None:
    with pytest.raises(ValueError, match=r"^a size such as 4GiB, 800MiB"):
        parse_gib(given)
