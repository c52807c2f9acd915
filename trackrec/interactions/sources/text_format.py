"""How text files are written: `TextFormat`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from trackrec.interactions.source import DataError, choice_error
from trackrec.interactions.sources.columns import ARGS

TextKind = Literal["auto", "fields", "json", "python"]


@dataclass(frozen=True)
class TextFormat:
    """How text files are written.

    Attributes:
        format: "fields" for lines of fields (CSV, TSV and the like), "json" for a JSON object per line, "python" for a
            Python dict per line, as some old dumps have it. "auto" takes .json, .jsonl and .ndjson for one of the
            latter two, whichever the first lines are, and all others for fields. A field inside another is named with a
            dot: ``author.name``.
        separator: Between the fields; "\\t" is a tab. Several characters, such as "::", are one separator.
        header: Whether a file begins with column names; without, columns are called by their number, from "1".
        quote: The quotation mark; null where quotation marks are part of the text.
        escape: What takes a quotation mark or separator after it as text: "\\" where a file has \\" inside a quoted
            field. Null: a quotation mark inside a quoted field is doubled.
        history_separator: Between the entries of ``columns.history`` and of ``columns.history_ratings``.
        attribute_separator: Between the attributes of an item's cell.
    """

    separator: str = ","
    header: bool = True
    quote: str | None = '"'
    escape: str | None = None
    format: TextKind = "auto"
    history_separator: str = " "
    attribute_separator: str = "|"

    def __post_init__(self) -> None:
        object.__setattr__(self, "separator", self.separator.replace("\\t", "\t"))
        if self.format not in get_args(TextKind):
            raise choice_error(f"{ARGS}.text.format", self.format, get_args(TextKind))
        if not self.separator or not self.separator.isascii() or set(self.separator) & set("\r\n"):
            raise DataError(
                f"{ARGS}.text.separator must be ASCII characters other than line ends, got {self.separator!r}."
            )
        for key, text in {"quote": self.quote, "escape": self.escape}.items():
            if text is not None and (len(text) != 1 or not text.isascii() or text in "\r\n"):
                raise DataError(f"{ARGS}.text.{key} must be one character, got {text!r}.")
            if text is not None and text in self.separator:
                raise DataError(f"{ARGS}.text.{key} must not be part of {ARGS}.text.separator, got {text!r} for both.")
        if self.escape is not None and self.escape == self.quote:
            raise DataError(
                f"{ARGS}.text.escape must differ from {ARGS}.text.quote, got {self.escape!r} for both. Set it to null "
                "for quotation marks that are doubled."
            )
        lists = {"history_separator": self.history_separator, "attribute_separator": self.attribute_separator}
        for key, text in lists.items():
            if not text:
                raise DataError(f"{ARGS}.text.{key} must not be empty.")
