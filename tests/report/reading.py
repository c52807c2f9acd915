"""Finds things in a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trackrec.report.numbers import RunNumbers
from trackrec.report.render.document import Figure, Missing, Report, Section, TableBlock, Verdict
from trackrec.report.sections.arms import arms_section


def section(report: Report, key: str) -> Section:
    return next(part for part in report.sections if part.key == key)


def tables(report: Report, key: str) -> list[TableBlock]:
    part = Report("", [], [section(report, key)])
    return [
        block.numbers if isinstance(block, Figure) else block
        for block in part.blocks()
        if isinstance(block, TableBlock | Figure)
    ]


def missing(report: Report) -> str:
    return " ".join(block.text for block in report.blocks() if isinstance(block, Missing))


def answer_of(run_dir: Path, config: dict[str, Any]) -> Verdict:
    (found,) = [
        block for block in arms_section(RunNumbers(run_dir, config), "DIN").blocks if isinstance(block, Verdict)
    ]
    return found


def row(table: TableBlock, name: str) -> dict[str, Any]:
    (found,) = [line for line in table.rows if line[0] == name]
    return dict(zip(table.columns, found, strict=True))
