"""Guesses how the fields of a text file are separated and quoted, and whether it begins with a header."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from trackrec.interactions.guess.names import tokens

SEPARATORS = (",", "\t", ";", "|", "::", " ")

_SNIFFED_LINES = 2000
_MOST_BROKEN = 0.02
_STAND_IN = "\x1f"
_NUMBER = re.compile(r"-?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?$")
_NAME = re.compile(r"[^\W\d_][\w .:\-/()]*$")


class Layout(NamedTuple):
    """How the fields of a text stand in its lines.

    Attributes:
        separator: between the fields.
        quote: the quotation mark, if there are any.
        escape: what stands before quotation marks inside a field, if anything does.
        width: how many fields most records have.
        broken: how many records have another number, or can't be read.
        quotes: whether there is a quotation mark anywhere in the text.
        rows: the records of ``width`` fields, a header too.
    """

    separator: str
    quote: str | None
    escape: str | None
    width: int
    broken: int
    quotes: bool
    rows: list[list[str]]


def guess_layout(text: str) -> Layout | None:
    """The separator, quotation mark and escape by which most records have the same number of fields, as many as can be.

    None where no separator splits the lines.
    """
    start = "".join(text.splitlines(keepends=True)[:_SNIFFED_LINES])
    fits = [(fit, -place) for place, sep in enumerate(SEPARATORS) if (fit := _best_quoting(start, sep)) is not None]
    if not fits:
        return None
    best = max(fits, key=lambda pair: (pair[0].width, pair[1]))[0]
    return _parse(text, best.separator, best.quote, best.escape)


def is_header(first: Sequence[str], below: Sequence[Sequence[str]]) -> bool:
    """Whether a file's first record names its columns: a word above numbers, or words that occur nowhere below."""
    cells = [cell.strip() for cell in first]
    if any(_NUMBER.match(cell) for cell in cells) or len(set(cells)) < len(cells):
        return False
    columns = list(zip(*below, strict=True)) or [()] * len(cells)
    if below and any(all(_NUMBER.match(cell.strip()) for cell in column[:50]) for column in columns):
        return True
    if any(cell in column for cell, column in zip(cells, columns, strict=True)):
        return False
    return all(_NAME.match(cell) and len(tokens(cell)) < 6 for cell in cells if cell)


def _best_quoting(text: str, separator: str) -> Layout | None:
    if separator not in text:
        return None
    plain = _parse(text, separator, None, None)
    if re.search(f'(?:^|{re.escape(separator)})"', text, re.MULTILINE):
        # Doubled quotation marks are the rule; a backslash before them is tried only where there is one.
        escapes = [None, *(["\\"] if '\\"' in text else [])]
        styles = [_parse(text, separator, '"', escape) for escape in escapes] + [plain]
    else:
        bare = separator == "\t" or '"' in text
        styles = [plain if bare else plain._replace(quote='"')]
    fits = [fit for fit in styles if fit.width > 1 and fit.broken <= _MOST_BROKEN * (len(fit.rows) + fit.broken)]
    return min(fits, key=lambda fit: fit.broken, default=None)


def _parse(text: str, separator: str, quote: str | None, escape: str | None) -> Layout:
    """The records of the commonest width; records that are broken or have another width are counted."""
    long, quotes = len(separator) > 1, '"' in text
    if long:
        text = text.replace(separator, _STAND_IN)
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
    reader = csv.reader(
        text.splitlines(keepends=True),
        delimiter=_STAND_IN if long else separator,
        quotechar=quote,
        quoting=quoting,
        escapechar=escape,
        strict=True,
    )
    rows: list[list[str]] = []
    broken = 0
    while True:
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            # The text may be cut inside a quoted field.
            broken += "end of data" not in str(error)
            continue
        if row and (len(row) > 1 or row[0].strip()):
            rows.append(row)
    width = Counter(map(len, rows)).most_common(1)[0][0] if rows else 0
    fitting = [row for row in rows if len(row) == width]
    return Layout(separator, quote, escape, width, broken + len(rows) - len(fitting), quotes, fitting)
