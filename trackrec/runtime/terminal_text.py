"""Text from outside on a terminal: control characters are shown instead of executed."""

from __future__ import annotations

import logging
import unicodedata


def printable(text: str, keep: str = "\n") -> str:
    r"""Text with visible control characters: ``\x1b`` instead of a colour, ``\r`` instead of a rewritten line.

    Titles, ids, file names and messages of servers come from outside, and a terminal executes the control characters
    in them. Format characters (directions, zero widths) are shown the same way, since they hide parts of a line.

    Args:
        text: any.
        keep: control characters that stay as they are.
    """
    return "".join(
        char if char in keep or char.isprintable() or unicodedata.category(char) == "Zs" else ascii(char)[1:-1]
        for char in text
    )


class PrintableFormatter(logging.Formatter):
    """Log records as one printable line each."""

    def format(self, record: logging.LogRecord) -> str:
        """See `printable`; a traceback keeps its lines."""
        return printable(super().format(record), keep="\n" if record.exc_info else "")
