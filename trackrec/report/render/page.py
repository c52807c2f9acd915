"""A report as one HTML page without network access and scripts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from html import escape
from importlib.resources import files

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
    Section,
    TableBlock,
    Verdict,
    sentence,
)

_OPEN_EXAMPLES = 4
_NARROW, _WIDE = 3, 6  # columns
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
"""


def to_html(report: Report) -> str:
    """The whole page."""
    style = files("trackrec.report.render").joinpath("page.css").read_text(encoding="utf-8")
    links = "".join(f'<li><a href="#{section.key}">{escape(section.title)}</a></li>' for section in report.sections)
    about = "".join(f"<li>{escape(fact)}</li>" for fact in report.about)
    return "".join(
        [
            _HEAD.format(title=f"{escape(report.title)} · TrackRec report", style=style),
            f'<header><p class="kind">TrackRec report</p><h1>{escape(report.title)}</h1>',
            f'<ul class="about">{about}</ul></header>\n',
            f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n<main>\n',
            *(_section(section) for section in report.sections),
            "</main>\n</body>\n</html>\n",
        ]
    )


def _section(section: Section) -> str:
    blocks: list[str] = []
    examples = 0
    for block in section.blocks:
        if isinstance(block, Example):
            blocks.append(_example(block, opened=examples < _OPEN_EXAMPLES))
            examples += 1
        else:
            blocks.append(write(block))
    heading = f'<h2 id="{section.key}-title">{escape(section.title)}</h2>'
    body = "\n".join([heading, *blocks])
    return f'<section id="{section.key}" aria-labelledby="{section.key}-title">\n{body}\n</section>\n'


@singledispatch
def write(block: object) -> str:
    """One block."""
    raise TypeError(f"no HTML for {type(block).__name__}")


@write.register
def _(block: Paragraph) -> str:
    return f"<p>{prose(block.text)}</p>"


@write.register
def _(block: Missing) -> str:
    return f'<p class="notice open"><strong>Missing.</strong> {prose(block.text)}</p>'


@write.register
def _(block: Notice) -> str:
    label = f"<strong>{escape(sentence(block.judgement.text))}.</strong>"
    return f'<p class="notice {block.judgement.tone}">{label} {prose(block.text)}</p>'


@write.register
def _(block: Verdict) -> str:
    grounds = "".join(f"<li>{prose(ground)}</li>" for ground in block.grounds)
    answer = f'<p class="answer">{escape(block.answer.text)}</p>'
    return f'<div class="verdict {block.answer.tone}"><p>{escape(block.question)}</p>{answer}<ul>{grounds}</ul></div>'


@write.register
def _(block: TableBlock) -> str:
    # Columns with numbers are aligned right, columns of words left.
    kinds = [
        "number" if any(isinstance(row[index], Num) for row in block.rows) else "words"
        for index in range(len(block.columns))
    ]
    heads = zip(kinds, block.columns, strict=True)
    head = "".join(f'<th scope="col" role="columnheader" class="{kind}">{escape(name)}</th>' for kind, name in heads)
    rows = "".join(f'<tr role="row">{_row(row, kinds, block.columns)}</tr>\n' for row in block.rows)
    # A phone shows the rows of a wide table as cards; the roles tell screen readers that it still is a table.
    wide = " wide" if len(block.columns) > _WIDE else ""
    stack = " stack" if len(block.columns) > _NARROW else ""
    return (
        f'<table role="table" class="table{wide}{stack}"><caption>{prose(block.caption)}</caption>\n'
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>\n<tbody role="rowgroup">\n{rows}</tbody></table>'
    )


@write.register
def _(block: Figure) -> str:
    names = enumerate(block.legend)
    legend = "".join(f'<span><i class="swatch s{order % 5}"></i>{escape(name)}</span>' for order, name in names)
    shown = f'<p class="legend">{legend}</p>' if legend else ""
    numbers = write(block.numbers)
    if block.folded:
        numbers = _fold("The numbers behind it", numbers)
    return (
        f'<figure>{shown}<div class="panels{" pairs" if block.pairs else ""}">{"".join(block.panels)}</div>'
        f"<figcaption>{prose(block.caption)}</figcaption></figure>\n{numbers}"
    )


@write.register
def _(block: Folded) -> str:
    return _fold(block.title, "\n".join(write(part) for part in block.blocks))


@write.register
def _(block: Code) -> str:
    return _fold(block.title, f"<pre>{escape(block.text)}</pre>")


def _fold(title: str, content: str) -> str:
    return f'<details class="fold"><summary>{escape(title)}</summary>{content}</details>'


def _example(block: Example, opened: bool) -> str:
    history = "".join(
        f'<li class="{"liked" if liked else "disliked"}">{escape(line)}'
        f'<span class="word"> {"liked" if liked else "not liked"}</span></li>'
        for line, liked in block.history
    )
    marked = '<mark title="not in the history">{}</mark>'
    texts = []
    for name, spans in block.texts:
        pieces = [marked.format(escape(span.text)) if span.marked else escape(span.text) for span in spans]
        text = f"<p>{''.join(pieces)}</p>" if spans else '<p class="none">no text</p>'
        texts.append(f"<div><h4>{escape(name)}</h4>{text}</div>")
    return (
        f'<details class="example"{" open" if opened else ""}><summary>{escape(block.title)}</summary>'
        f'<div class="sides"><div><h4>history</h4><ul>{history}</ul></div>{"".join(texts)}</div></details>'
    )


def prose(text: str) -> str:
    """Escaped text, with `commands` between back quotes as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))


def _row(row: Sequence[Cell], kinds: Sequence[str], columns: Sequence[str]) -> str:
    cells = "".join(
        f'<td role="cell" class="{kind}" data-label="{escape(name)}"><span>{_cell(cell)}</span></td>'
        for cell, kind, name in zip(row[1:], kinds[1:], columns[1:], strict=True)
    )
    name = f' data-label="{escape(columns[0])}"' if str(row[0])[:1].isdigit() else ""
    return f'<th scope="row" role="rowheader"{name}>{_cell(row[0])}</th>{cells}'


def _cell(cell: Cell) -> str:
    if isinstance(cell, Badge):
        return f'<span class="badge {cell.tone}">{escape(cell.text)}</span>'
    if isinstance(cell, Num):
        return f"{cell.text} <small>{cell.interval}</small>" if cell.interval else cell.text
    return escape(cell)
