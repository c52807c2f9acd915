"""Gathers a run's facts into one document, and writes it as a page and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trackrec.report.numbers import RunNumbers
from trackrec.report.render.document import Report, Section
from trackrec.report.render.markdown import to_markdown
from trackrec.report.render.page import to_html
from trackrec.report.sections.alignment import alignment_section
from trackrec.report.sections.arms import arms_section
from trackrec.report.sections.calibration import calibration_section
from trackrec.report.sections.data import data_section
from trackrec.report.sections.monitors import monitors_section, notices
from trackrec.report.sections.overview import (
    about,
    class_name,
    cost_section,
    missing_blocks,
    run_section,
    settings_section,
)
from trackrec.report.sections.prompts import prompts_section
from trackrec.report.sections.reading import reading_section
from trackrec.report.sections.rounds import rewards_section, rounds_section
from trackrec.report.sections.writing import Writing, examples_section, writing_section
from trackrec.storage.schemas import TableError

FOLDER = "report"


def build_report(run_dir: Path, config: Mapping[str, Any]) -> Report:
    """The report from a run's tables and manifests; it names the parts that are missing.

    Args:
        run_dir: of the run, finished or not.
        config: the resolved configuration as plain types.

    Raises:
        TableError: the directory holds no finished stage, or a table can't be read.
    """
    run = RunNumbers(run_dir, config)
    if not run.manifests:
        raise TableError(f"run_dir: no stage is done in {run_dir}. Run `trackrec fit` with the same config first.")
    writing = Writing(run)
    sections = [
        arms_section(run, class_name(run.saved_config["ctr"]["net"])),
        data_section(run),
        run_section(run),
        rounds_section(run),
        rewards_section(run),
        alignment_section(run),
        writing_section(writing),
        calibration_section(run),
        monitors_section(run),
        examples_section(writing),
        prompts_section(writing),
        cost_section(run),
        settings_section(run),
    ]
    if (reading := reading_section(run)) is not None:
        sections.insert(0, reading)
    if missing := [*notices(run, "stop"), *missing_blocks(run)]:
        sections.insert(0, Section("missing", "What is missing", missing))
    return Report(run_dir.resolve().name, about(run), sections)


def write_report(run_dir: Path, config: Mapping[str, Any]) -> Path:
    """Write ``report/index.html`` and ``report/report.md`` under the run directory; returns the page's path."""
    report = build_report(run_dir, config)
    folder = run_dir / FOLDER
    folder.mkdir(exist_ok=True)
    for name, text in (("index.html", to_html(report)), ("report.md", to_markdown(report))):
        temporary = folder / f".{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(folder / name)
    return folder / "index.html"
