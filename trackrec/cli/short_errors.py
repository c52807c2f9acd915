"""Parsers whose errors are at most five lines: what is wrong, where, and what was probably meant."""

from __future__ import annotations

import sys
from typing import Any

from jsonargparse import ArgumentParser

from trackrec.cli.errors import explain


class ShortErrors(ArgumentParser):
    """A parser with short errors; it is mixed into Lightning's, and serves commands without a configuration."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # A flag cut short would be taken for another: a misspelt one must be an error.
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Print the short form and exit with status 2."""
        sys.stderr.write("\n".join(explain(self, message, ex)) + "\n")
        raise SystemExit(2)
