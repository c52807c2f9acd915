"""What a run cut off, outdated or past a limit has to say."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from made_run import MadeRun, made_config
from reading import answer_of, missing, row, section, tables

from trackrec.report.numbers import RunNumbers
from trackrec.report.render.document import Badge, Notice, Num, Paragraph, Report
from trackrec.report.report import build_report
from trackrec.runs.hooks import DoneStage, Reading, write_readings
from trackrec.storage.parts import write_part
from trackrec.storage.schemas import TableError

# -- what is missing ----------------------------------------------------------------------------------------------


def test_a_run_cut_off_in_round_one(tmp_path: Path) -> None:
    """Every section says what it has, and names what it hasn't."""
    config = made_config()
    made = MadeRun(tmp_path, config)
    made.data()
    seen = [missing(build_report(tmp_path, config))]
    made.texts("teacher", {"h0": "Enjoys Drama."}, 0)
    made.finish("distill", ["teacher"])
    made.texts("warmup/greedy", {"h0": "Enjoys Drama.", "h1": "Enjoys War."}, 0)
    seen.append(missing(build_report(tmp_path, config)))
    made.evaluate(0)
    report = build_report(tmp_path, config)
    seen.append(missing(report))
    for text in seen:
        assert "round-1/sample" in text
        assert "The test split has not been read" in text
        assert "No CTR net was trained yet" in text
    assert "teacher, distill, warmup/greedy" in seen[0]
    assert "G has written no text yet" in seen[0]
    assert "Not done yet: warmup/rec_tune, warmup/evaluate, round-1/sample" in seen[1]
    assert "No round was evaluated yet" in seen[1]
    assert "No round was evaluated yet" not in seen[2]
    assert len(tables(report, "rounds")[0].rows) == 1
    assert len(tables(report, "writing")[0].rows) == 2


def test_fit_without_test_says_so(made_dir: Any, tmp_path: Path) -> None:
    run_dir, config = made_dir
    shutil.copytree(run_dir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/test")
    report = build_report(tmp_path / "run", config)
    assert missing(report).startswith("The test split has not been read")
    block = answer_of(tmp_path / "run", config)
    assert "valid split" in block.grounds[0]
    assert "validation rows, on which every choice was made" in block.grounds[-1]


def test_what_an_older_config_left_is_not_read(made_dir: Any, tmp_path: Path) -> None:
    """Round 1 was aligned anew and the run cut off: everything behind it tells of another G."""
    run_dir, config = made_dir
    shutil.copytree(run_dir, tmp_path / "run")
    made = MadeRun(tmp_path / "run", config)
    write_part(tmp_path / "run/round-1/align", "reference_logps", [])
    made.finish("round-1/align", ["round-1/preferences"])
    run = RunNumbers(tmp_path / "run", config)
    assert run.has("round-1/align")
    assert "round-1/greedy" in run.outdated
    assert not run.has("round-1/rec_tune")
    assert "Left out, since their inputs have been replaced: round-1/greedy" in missing(
        build_report(tmp_path / "run", config)
    )


def test_rounds_beyond_the_config_are_not_read(made_dir: Any) -> None:
    run_dir, _ = made_dir
    run = RunNumbers(run_dir, made_config(rounds=1))
    assert run.has("round-1/align")
    assert not run.has("round-2/align")


def test_an_empty_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="run_dir: no stage is done in"):
        build_report(tmp_path / "nowhere", made_config())


def test_unknown_counts_of_the_data_are_shown_by_their_name(made_report: Report) -> None:
    (table,) = (table for table in tables(made_report, "data") if "The data after each filter" in table.caption)
    assert row(table, "odd count")["count"].value == 5
    assert row(table, "ratings kept")["count"].value == 100


# -- monitors -----------------------------------------------------------------------------------------------------


def test_monitors_are_shown_with_what_to_do(made_dir: Any, tmp_path: Path) -> None:
    run_dir, config = made_dir
    shutil.copytree(run_dir, tmp_path / "run")
    run = RunNumbers(tmp_path / "run", config)
    readings = [
        Reading("Collapse", "identical texts", 0.1, 30, 0.2, 0.6, "ok", ""),
        Reading(
            "Saturation", "saturated sets", 0.9, 30, 0.5, None, "warn", "saturated sets is high. Lower align.model.lr."
        ),
        Reading("AlwaysYes", "lean", 1e-5, 3, None, None, "few", ""),
    ]
    write_readings(DoneStage("round-1/align", run), readings)
    report = build_report(tmp_path / "run", config)
    first, second, _ = section(report, "monitors").blocks
    assert isinstance(first, Paragraph)
    assert first.text == "2 readings of 3 monitors were compared with limits, 1 more had too few rows; 1 past a limit."
    assert second == Notice(
        Badge("warning", "open"), "Saturation after round-1/align: saturated sets is high. Lower align.model.lr."
    )
    (table,) = tables(report, "monitors")
    assert list(table.rows[1]) == [
        *("round-1/align", "Saturation", "saturated sets", Num(0.9, unit="digits"), Num(0.5, unit="digits")),
        *(ANY, Badge("warning", "open"), Num(30.0, unit="count")),
    ]
    assert [cell.text for cell in table.rows[2] if isinstance(cell, Num)] == ["1e−05", "–", "–", "3"]
    assert not [block for block in report.sections[0].blocks if isinstance(block, Notice)]
    write_readings(DoneStage("round-2/align", run), [readings[1]._replace(verdict="stop", text="It is over.")])
    top = section(build_report(tmp_path / "run", config), "missing").blocks[0]
    assert top == Notice(Badge("stopped", "bad"), "Saturation after round-2/align: It is over.")


def test_a_run_without_monitors_says_so(made_report: Report) -> None:
    assert "No monitor looked at this run" in missing(made_report)


def test_stages_that_the_config_has_no_more_are_not_read(made_dir: Any, tmp_path: Path) -> None:
    """A run made with alignment, and fitted again without: its sets and rewards are not this run's."""
    run_dir, config = made_dir
    assert RunNumbers(run_dir, config).has("round-1/align")
    shutil.copytree(run_dir, tmp_path / "run")
    without = {**config, "loop": {**config["loop"], "align": False}}
    run = RunNumbers(tmp_path / "run", without)
    assert "round-1/align" in run.foreign
    assert not run.has("round-1/sample")
    assert run.has("round-1/greedy")
    report = build_report(tmp_path / "run", without)
    assert "this configuration has no such stages: round-1/sample, round-1/score" in missing(report)
