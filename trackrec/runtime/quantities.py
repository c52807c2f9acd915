"""Durations and sizes with their units: ``10min``, ``24GiB``."""

from __future__ import annotations

import re
from typing import Any

_SECONDS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
    "ms": 1e-3,
}
_BYTES = {
    "b": 1,
    **{f"{letter}ib": 2 ** (10 * power) for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}b": 10 ** (3 * power) for power, letter in enumerate("kmgt", 1)},
}
_NUMBER = r"\d+(?:\.\d*)?|\.\d+"


class Seconds(float):
    """A duration in seconds; a configuration may write it with a unit, such as ``10min`` or ``1h30min``."""


class GiB(float):
    """A size in GiB; a configuration may write it with a unit, such as ``800MiB``."""


def parse_seconds(value: Any) -> Seconds:
    """Seconds of ``90``, ``90s``, ``10min``, ``1.5h``, ``1h30min``.

    Raises:
        ValueError: it is no duration.
    """
    text = str(value).strip().lower()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Seconds(value)
    parts = re.findall(rf"({_NUMBER})\s*([a-z]+)", text)
    rest = re.sub(rf"({_NUMBER})\s*([a-z]+)\s*", "", text)
    if parts and not rest and all(unit in _SECONDS for _, unit in parts):
        return Seconds(sum(float(number) * _SECONDS[unit] for number, unit in parts))
    if re.fullmatch(_NUMBER, text):
        return Seconds(text)
    raise ValueError(f"a duration such as 90s, 10min, 1.5h or 1h30min, or a number of seconds, got {value!r}")


def parse_gib(value: Any) -> GiB:
    """GiB of ``4``, ``4GiB``, ``800MiB``, ``16GB``.

    Raises:
        ValueError: it is no size.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return GiB(value)
    if re.fullmatch(_NUMBER, str(value).strip()):
        return GiB(str(value))
    try:
        return GiB(parse_bytes(str(value)) / 2**30)
    except ValueError:
        raise ValueError(f"a size such as 4GiB, 800MiB or 16GB, or a number of GiB, got {value!r}") from None


def parse_bytes(text: str) -> int:
    """Bytes of ``24GiB``, ``16 GB``, ``800MiB``: 2**30, 10**9, 2**20 each.

    Raises:
        ValueError: it is no size with a unit.
    """
    found = re.fullmatch(rf"\s*({_NUMBER})\s*([a-z]+)\s*", text, re.IGNORECASE)
    if not found or found[2].lower() not in _BYTES:
        raise ValueError(f"a size such as 24GiB or 16GB, got {text!r}")
    return int(float(found[1]) * _BYTES[found[2].lower()])
