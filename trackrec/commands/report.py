"""``trackrec report``: what a run directory holds, as one HTML page and a Markdown file; runs nothing."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser

from trackrec.commands.call import Call


def add_arguments(parser: ArgumentParser) -> None:
    """The command has no arguments of its own."""


def run(call: Call) -> None:
    """Write the report and print where it is."""
    write_and_name(call.run_dir, call)


def write_and_name(run_dir: Path, call: Call) -> None:
    """Write the report of a run directory and print where it is."""
    from trackrec.report.report import write_report

    page = write_report(run_dir, call.config)
    call.console.print(f"The report is {page}; the same as Markdown is {page.with_name('report.md')}.", markup=False)
