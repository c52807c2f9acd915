"""What the monitors saw."""

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
    "few": Badge("too few to judge", "plain"),
    "warn": Badge("warning", "open"),
    "stop": Badge("stopped", "bad"),
}


def monitors_section(run: RunNumbers) -> Section:
    """The readings past a limit with what to do about them, then all of them."""
    title, readings = "Monitors", run.readings()
    if not len(readings):
        return Section("monitors", title, [Missing("No monitor looked at this run: name some under `monitors`.")])
    fired = notices(run, "warn", "stop")
    judged = readings.filter(pl.col("verdict") != "few")
    seen = f"{len(judged)} readings of {readings['monitor'].n_unique()} monitors were judged"
    few = len(readings) - len(judged)
    seen += f", {few} more had too few rows behind them" if few else ""
    blocks: list[Block] = [Paragraph(f"{seen}; {len(fired) or 'none'} past a limit."), *fired]
    table = TableBlock(
        "Every number that a monitor looked at, with its limits: past the first a line is printed, past the second the "
        "run stops. n counts rows, texts, claims, sets or steps. The numbers have no intervals; the limits are wide.",
        ("stage", "monitor", "number", "value", "warns", "stops", "verdict", "n"),
        [_row(row) for row in readings.iter_rows(named=True)],
    )
    return Section("monitors", title, [*blocks, Folded("All readings", [table])])


def notices(run: RunNumbers, *verdicts: str) -> list[Notice]:
    """The readings with these verdicts, as sentences."""
    found = run.readings().filter(pl.col("verdict").is_in(verdicts)).iter_rows(named=True)
    return [Notice(_BADGES[row["verdict"]], f"{row['monitor']} after {row['stage']}: {row['text']}") for row in found]


def _row(row: dict[str, object]) -> list[Cell]:
    values = [math.nan if row[name] is None else float(str(row[name])) for name in ("value", "warn", "stop")]
    nums = [Num(value, unit="digits") for value in values]
    names = [str(row[name]) for name in ("stage", "monitor", "name")]
    return [*names, *nums, _BADGES[str(row["verdict"])], Num(float(str(row["n"])), unit="count")]
