"""Foreign text on a terminal: shown, never obeyed."""

from __future__ import annotations

import logging
import unicodedata


def printable(text: str, keep: str = "\n") -> str:
    r"""Text whose control characters are visible: ``\x1b`` instead of a colour, ``\r`` instead of a rewritten line.

    Titles, ids, file names and the messages of servers come from strangers, and a terminal obeys what is in them.
    Format characters (directions, zero widths) are shown the same way, since they hide what a line says.

    Args:
        text: any.
        keep: control characters that stay as they are.
    """
    return "".join(char if char in keep or _is_shown(char) else ascii(char)[1:-1] for char in text)


def _is_shown(char: str) -> bool:
    return char.isprintable() or unicodedata.category(char) == "Zs"


class PrintableFormatter(logging.Formatter):
    """Log records as one plain line each."""

    def format(self, record: logging.LogRecord) -> str:
        """See `plain`; a traceback keeps its lines."""
        return printable(super().format(record), keep="\n" if record.exc_info else "")
