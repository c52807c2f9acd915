"""The monitors' readings."""

from __future__ import annotations

import math

import polars as pl

from trackrec.report.numbers import RunNumbers
from trackrec.report.render.document import (
    Badge,
    Block,
    Cell,
    Folded,
    Missing,
    Notice,
    Num,
    Paragraph,
    Section,
    TableBlock,
)

_BADGES = {
    "ok": Badge("ok", "good"),
    "few": Badge("too few rows", "plain"),
    "warn": Badge("warning", "open"),
    "stop": Badge("stopped", "bad"),
}


def monitors_section(run: RunNumbers) -> Section:
    """The readings past a limit with what to do about them, then all readings."""
    title = "Monitors"
    readings = run.readings()
    if not len(readings):
        return Section("monitors", title, [Missing("No monitor looked at this run: name some under `monitors`.")])
    fired = notices(run, "warn", "stop")
    few = len(readings.filter(pl.col("verdict") == "few"))
    summary = f"{len(readings) - few} readings of {readings['monitor'].n_unique()} monitors were compared with limits"
    summary += f", {few} more had too few rows" if few else ""
    blocks: list[Block] = [Paragraph(f"{summary}; {len(fired) or 'none'} past a limit."), *fired]
    rows: list[list[Cell]] = []
    for row in readings.iter_rows(named=True):
        numbers = [math.nan if row[name] is None else float(row[name]) for name in ("value", "warn", "stop")]
        cells: list[Cell] = [
            row["stage"],
            row["monitor"],
            row["name"],
            *(Num(value, unit="digits") for value in numbers),
        ]
        rows.append([*cells, _BADGES[row["verdict"]], Num(float(row["n"]), unit="count")])
    table = TableBlock(
        "Every number that a monitor measured, with its limits: past the first a warning is printed, past the second "
        "the run stops. n counts rows, texts, claims, sets or steps. Numbers have no intervals; the limits are wide.",
        ("stage", "monitor", "number", "value", "warns", "stops", "verdict", "n"),
        rows,
    )
    return Section("monitors", title, [*blocks, Folded("All readings", [table])])


def notices(run: RunNumbers, *verdicts: str) -> list[Notice]:
    """The readings with these verdicts, as sentences."""
    rows = run.readings().filter(pl.col("verdict").is_in(verdicts)).iter_rows(named=True)
    return [Notice(_BADGES[row["verdict"]], f"{row['monitor']} after {row['stage']}: {row['text']}") for row in rows]
