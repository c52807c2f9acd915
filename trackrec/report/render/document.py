"""A report as data: sections of text, tables, figures and examples.

The page and the Markdown file are rendered from the same document, so they state the same facts. All text in it is
plain: each renderer escapes what it writes. Only the figures' panels are markup already.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from markupsafe import Markup

Unit = Literal["score", "signed", "share", "one", "count", "digits"]
Tone = Literal["good", "bad", "open", "plain"]
_NAN = float("nan")


@dataclass(frozen=True)
class Num:
    """A number with its interval and the rows behind it.

    Attributes:
        value: the number.
        low: lower end of its 95 % interval, NaN without one.
        high: upper end.
        n: how many rows (or texts, steps, users: the column or caption says which) it was computed from; None if the
            table shows that elsewhere.
        unit: ``score`` .7314, ``signed`` +.0021, ``share`` 12.3 %, ``one`` 23.4, ``count`` 6,353,
            ``digits`` four significant digits.
    """

    value: float
    low: float = _NAN
    high: float = _NAN
    n: int | None = None
    unit: Unit = "score"

    @property
    def text(self) -> str:
        """The value without its interval."""
        return write_number(self.value, self.unit)

    @property
    def interval(self) -> str:
        """``[.7184, .7862]``, empty without one."""
        if math.isnan(self.low) or math.isnan(self.high):
            return ""
        return f"[{write_number(self.low, self.unit)}, {write_number(self.high, self.unit)}]"


@dataclass(frozen=True)
class Badge:
    """A short verdict; its tone decides the colour."""

    text: str
    tone: Tone


Cell = str | Num | Badge


@dataclass(frozen=True)
class TableBlock:
    """Rows of cells under named columns.

    Attributes:
        caption: what the table holds: the split, what n counts, where the intervals come from.
        columns: their heads.
        rows: one cell per column each; the first names the row.
        title: a short name for the terminal, which shows no caption.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""


@dataclass(frozen=True)
class Figure:
    """Drawings that are read together, how to read them, and their numbers.

    Attributes:
        caption: how to read them.
        panels: one SVG element each; the page escapes what isn't Markup.
        numbers: the numbers of the panels, as a table.
        legend: names of the series, in the order of their colours.
        pairs: the panels belong together two by two.
        folded: the page shows the numbers on demand only.
    """

    caption: str
    panels: Sequence[Markup]
    numbers: TableBlock
    legend: Sequence[str] = ()
    pairs: bool = False
    folded: bool = False


@dataclass(frozen=True)
class Paragraph:
    """Plain text."""

    text: str


@dataclass(frozen=True)
class Missing:
    """What is missing here from the run, and how to get it."""

    text: str


@dataclass(frozen=True)
class Notice:
    """An important sentence, shown after a badge."""

    judgement: Badge
    text: str


@dataclass(frozen=True)
class Verdict:
    """The answer to a question, and the results that support it."""

    question: str
    answer: Badge
    grounds: Sequence[str]


@dataclass(frozen=True)
class Span:
    """A piece of a text; ``marked`` if it is a name that isn't in the history."""

    text: str
    marked: bool = False


@dataclass(frozen=True)
class Example:
    """One user: the history that the generator read, and the texts about it.

    Attributes:
        title: the user.
        history: the lines that the generator read, with whether each was liked.
        texts: (who wrote it, the text in pieces), in the order of the rounds.
    """

    title: str
    history: Sequence[tuple[str, bool]]
    texts: Sequence[tuple[str, Sequence[Span]]]


@dataclass(frozen=True)
class Code:
    """A file's text, or another one whose lines stay as they are, folded.

    Attributes:
        title: its heading.
        text: the text.
        language: for Markdown's fence.
    """

    title: str
    text: str
    language: str = "yaml"


@dataclass(frozen=True)
class Folded:
    """Blocks that the page shows on demand only."""

    title: str
    blocks: Sequence[Block]


Block = TableBlock | Figure | Paragraph | Missing | Notice | Verdict | Example | Code | Folded


@dataclass(frozen=True)
class Section:
    """A heading and its blocks.

    Attributes:
        key: its anchor.
        title: its heading.
        blocks: in order.
    """

    key: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Report:
    """The whole document.

    Attributes:
        title: the run's name.
        about: short facts for the line under the title.
        sections: in order.
    """

    title: str
    about: Sequence[str]
    sections: Sequence[Section] = field(default_factory=tuple)

    def blocks(self) -> list[Block]:
        """The blocks of all sections, the folded ones too."""
        blocks = [block for section in self.sections for block in section.blocks]
        return [part for block in blocks for part in (block.blocks if isinstance(block, Folded) else (block,))]


def sentence(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def write_number(value: float, unit: Unit) -> str:
    """A number as text; see `Num` for the units. NaN is a dash."""
    if math.isnan(value):
        return "–"
    if unit == "count":
        return f"{value:,.0f}"
    if unit == "share":
        return f"{_minus(f'{100 * value:.1f}')} %"
    if unit == "one":
        return _minus(f"{value:,.1f}")
    if unit == "digits":
        return _minus(f"{value:.4g}")
    text = f"{abs(value):.4f}"
    text = text[1:] if text.startswith("0.") else text
    if unit == "signed":
        return f"{'−' if value < 0 else '+'}{text}"
    return f"−{text}" if value < 0 else text


def _minus(text: str) -> str:
    return text.replace("-", "−")
