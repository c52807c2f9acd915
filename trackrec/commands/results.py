"""Runs stages, prints the tables of what they found, and writes the report: the common part of ``fit`` and ``test``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
from rich.console import Console

from trackrec.commands.call import Call
from trackrec.commands.report import write_and_name
from trackrec.recipe.experiment import Experiment
from trackrec.recipe.test_reads import test_reads
from trackrec.report.numbers import RunNumbers
from trackrec.report.render.terminal import print_report
from trackrec.report.sections.reading import reading_blocks
from trackrec.runs.hooks import StoppedByMonitorError
from trackrec.storage.schemas import to_arrow


def run_and_show(call: Call, experiment: Experiment, stages: Sequence[str] | None, split: str) -> None:
    """Bring stages up to date and show what the run found.

    Args:
        call: of the command.
        experiment: its stages are in its pipeline.
        stages: names or kinds; None runs all.
        split: whose numbers are printed, ``valid`` or ``test``.
    """
    run_dir = experiment.pipeline.run_dir
    try:
        experiment.pipeline.run(stages)
    except StoppedByMonitorError:
        write_and_name(run_dir, call)
        raise
    facts: dict[str, Any] = {"rounds": experiment.loop.rounds, "split": split, "net": net_name(call.config)}
    facts["seeds"] = len(experiment.ctr.seeds)
    if split == "test":
        facts["test_reads"] = test_reads(run_dir)
    metrics = all_metrics(experiment)
    if len(metrics):
        read = reading_blocks(RunNumbers(run_dir, call.config), split)
        print_report(metrics, facts, Console(width=max(call.console.width, 120)), read)
    call.say(f"Everything is in the metrics tables under {run_dir}.")
    write_and_name(run_dir, call)


def all_metrics(exp: Experiment) -> pl.DataFrame:
    """The metrics of every done stage of a run, as one table."""
    frames = [
        exp.table(stage.name, "metrics")
        for stage in exp.pipeline.stages
        if exp.pipeline.done(stage.name) and (exp.directory(stage.name) / "metrics").is_dir()
    ]
    return pl.concat([pl.DataFrame(to_arrow("metrics", [])), *frames])


def net_name(config: dict[str, Any]) -> str:
    """The class name of the CTR net."""
    net = config["ctr"]["net"]
    return str(net["class_path"] if isinstance(net, dict) else net).rsplit(".", 1)[-1]
