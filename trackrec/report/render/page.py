"""A report as one HTML page without network access and scripts, from ``page.html.jinja``.

It isn't made from the Markdown of `trackrec.report.render.markdown`, which has no place for the drawings, the folded
parts, the marked names and the roles for screen readers.
"""

from __future__ import annotations

from functools import partial
from typing import Any, get_args

from jinja2 import Environment, PackageLoader, StrictUndefined

from trackrec.report.render.document import Badge, Block, Num, Report, TableBlock, sentence


def to_html(report: Report) -> str:
    """The whole page."""
    return _environment().get_template("page.html.jinja").render(report=report)


def _environment() -> Environment:
    """The templates beside this file, with tests like ``block is Figure``. Whatever isn't Markup is escaped."""
    environment = Environment(
        loader=PackageLoader(__package__, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.tests.update({kind.__name__: partial(_is, kind) for kind in (*get_args(Block), Badge, Num)})
    environment.filters.update(sentence=sentence, column_kinds=_column_kinds)
    environment.globals.update(zip=partial(zip, strict=True), no_html=_no_html)
    return environment


def _is(kind: type, value: object) -> bool:
    return isinstance(value, kind)


def _column_kinds(table: TableBlock) -> list[str]:
    """Per column, how it is aligned: numbers to the right, words to the left."""
    return [
        "number" if any(isinstance(row[index], Num) for row in table.rows) else "words"
        for index in range(len(table.columns))
    ]


def _no_html(block: Any) -> None:
    raise TypeError(f"no HTML for {type(block).__name__}")
