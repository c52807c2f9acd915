"""Short errors for the command line: what is wrong, where, and what was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any

_LINES = 5
_WIDTH = 300


def explain(parser: Any, message: str, ex: Exception | None) -> list[str]:
    """At most five lines for a parse error.

    Args:
        parser: knows the keys that exist.
        message: jsonargparse's message, which may hold a page of alternatives.
        ex: the exception behind it, if any.
    """
    return [f"{message!r}", f"{ex!r}"]
