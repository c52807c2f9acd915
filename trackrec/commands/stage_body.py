"""The body of one stage, as one of several processes runs it; see `trackrec.cli.worker`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from trackrec.llm.training.devices import choose_gpu
from trackrec.pipeline.stage import StageResult
from trackrec.recipe.build import Objects, build_experiment
from trackrec.recipe.graph import graph_of
from trackrec.runtime.peak_memory import peak_memory, reset_peak_memory
from trackrec.runtime.terminal_text import printable


def run_body(config: dict[str, Any], objects: Objects, stage: str, work: Path, loud: bool) -> StageResult:
    """Run the body of a training stage: no lock, no manifest.

    Args:
        config: the resolved configuration.
        objects: builds the configuration's objects.
        stage: its name.
        work: the directory that it fills.
        loud: whether this process prints for all.
    """
    console = Console(highlight=False, soft_wrap=True, quiet=not loud)
    experiment = build_experiment(config, objects, lambda text: console.print(printable(text, keep=""), markup=False))
    (found,) = (one for one in graph_of(experiment).stages if one.name == stage)
    choose_gpu(config[found.section]["trainer"]["devices"])
    reset_peak_memory()
    return StageResult(found.run(experiment, work), peak_memory())
