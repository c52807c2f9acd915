"""A report as Markdown: the same facts as on the page, with the figures as tables of their numbers."""

from __future__ import annotations

import re
from functools import singledispatch

from trackrec.report.render.document import (
    Badge,
    Cell,
    Code,
    Example,
    Figure,
    Folded,
    Missing,
    Notice,
    Num,
    Paragraph,
    Report,
    TableBlock,
    Verdict,
    sentence,
)

# Characters that would begin markup of Markdown or HTML.
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&])")


def to_markdown(report: Report) -> str:
    """The whole document."""
    parts = [f"# {plain(report.title)}", plain(" · ".join(report.about))]
    for section in report.sections:
        parts.append(f"## {plain(section.title)}")
        parts.extend(write(block) for block in section.blocks)
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """A text on one line, escaped so that none of its characters is markup."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


@singledispatch
def write(block: object) -> str:
    """One block."""
    raise TypeError(f"no Markdown for {type(block).__name__}")


@write.register
def _(block: Paragraph) -> str:
    return plain(block.text)


@write.register
def _(block: Missing) -> str:
    return f"> **Missing.** {plain(block.text)}"


@write.register
def _(block: Notice) -> str:
    return f"> **{plain(sentence(block.judgement.text))}.** {plain(block.text)}"


@write.register
def _(block: Verdict) -> str:
    lines = [f"**{plain(block.question)} {plain(block.answer.text)}.**", ""]
    return "\n".join([*lines, *(f"- {plain(ground)}" for ground in block.grounds)])


@write.register
def _(block: TableBlock) -> str:
    heads = [plain(name) for name in block.columns]
    marks = ["---", *["---:"] * (len(heads) - 1)]
    rows = [[_cell(cell) for cell in row] for row in block.rows]
    lines = ["| " + " | ".join(row) + " |" for row in (heads, marks, *rows)]
    return "\n".join([plain(block.caption), "", *lines])


@write.register
def _(block: Figure) -> str:
    return f"{plain(block.caption)}\n\n{write(block.numbers)}"


@write.register
def _(block: Folded) -> str:
    return "\n\n".join([f"### {plain(block.title)}", *(write(part) for part in block.blocks)])


@write.register
def _(block: Example) -> str:
    history = "; ".join(f"{plain(line)} {'+' if liked else '−'}" for line, liked in block.history)
    texts = []
    for name, spans in block.texts:
        pieces = [f"**{plain(span.text)}**" if span.marked else _plain_piece(span.text) for span in spans]
        texts.append(f"- {plain(name)}: {''.join(pieces) or '(no text)'}")
    note = "(liked +, not liked −; bold: not in the history)"
    return "\n".join([f"### {plain(block.title)}", "", f"History {note}: {history}", "", *texts])


@write.register
def _(block: Code) -> str:
    longest = max((len(run) for run in re.findall(r"`+", block.text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{plain(block.title)}\n\n{fence}{block.language}\n{block.text.rstrip()}\n{fence}"


def _cell(cell: Cell) -> str:
    if isinstance(cell, Num):
        return plain(f"{cell.text} {cell.interval}".strip())
    return plain(cell.text if isinstance(cell, Badge) else cell)


def _plain_piece(text: str) -> str:
    """See `plain`; spaces at the ends are kept, since they separate the piece from a marked name."""
    body = plain(text)
    return f"{' ' if text[:1].isspace() else ''}{body}{' ' if body and text[-1:].isspace() else ''}"
