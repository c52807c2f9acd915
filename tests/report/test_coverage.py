"""AUC against the share of the users that have a text, in the terminal and on the page."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from made_run import MadeRun, made_config, metric_row
from reading import tables
from rich.console import Console
from tiny import frame

from trackrec.report.render.terminal import coverage_table
from trackrec.report.report import build_report


def metrics(*arms: str) -> pl.DataFrame:
    rows = []
    for place, arm in enumerate(arms):
        rows.append(metric_row("ctr", "valid", arm, "auc", 0.6 + place / 100, 0.5, 0.7))
        if arm != "none":
            rows.append(metric_row("ctr", "valid", arm, "auc_minus_none", place / 100, -0.01, 0.03))
    return frame("metrics", rows)


def shown(table: object) -> list[str]:
    with (console := Console(width=120)).capture() as captured:
        console.print(table)
    return captured.get().splitlines()


def test_shares_stand_in_order_between_none_and_all() -> None:
    table = coverage_table(metrics("none", "reccot@0.1", "reccot@0.5", "reccot", "shuffled"), "valid", "DIN")
    lines = shown(table)
    assert "DIN by the share of users with a RecCoT (valid)" in lines[0]
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert [row[0] for row in cells] == ["0%", "10%", "50%", "100%"]
    assert [row[1] for row in cells] == [f".6{n}00 [.5000, .7000]" for n in range(4)]
    assert [row[2] for row in cells] == ["-", *(f".0{n}00 [-.0100, .0300]" for n in range(1, 4))]
    assert {row[3] for row in cells} == {"48"}


def test_without_shares_there_is_no_table() -> None:
    assert coverage_table(metrics("none", "reccot"), "valid", "DIN") is None
    assert coverage_table(metrics(), "valid", "DIN") is None


def test_the_page_names_the_shares_and_vs_placebo(tmp_path: Path) -> None:
    run = MadeRun(tmp_path / "run", made_config(2))
    run.data()
    extra = [metric_row("ctr", "valid", "reccot@0.1", "auc", 0.61, 0.5, 0.7)]
    run.ctr(extra=[*extra, metric_row("ctr", "valid", "plain", "auc", 0.62, 0.5, 0.7)])
    found = tables(build_report(tmp_path / "run", made_config(2)), "arms")
    names = [str(row[0]) for table in found for row in table.rows]
    assert "DIN + RecCoT for 10% of the users" in names
    assert "DIN + V without RecCoT" in names
