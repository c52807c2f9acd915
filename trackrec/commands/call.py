"""What every command is called with, and how most of them begin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from trackrec.runtime.terminal_text import printable

if TYPE_CHECKING:
    from trackrec.pipeline.stage import Stage, StageResult
    from trackrec.recipe.build import Objects
    from trackrec.recipe.experiment import Experiment
    from trackrec.recipe.graph import Graph

Parse = Callable[[Sequence[Path]], "tuple[dict[str, Any], Objects]"]


@dataclass(frozen=True)
class Call:
    """One call of a command.

    Attributes:
        config: the resolved configuration as plain types.
        own: the command's own arguments.
        objects: builds the configuration's objects anew at each call.
        parse: reads configuration files, the later ones over the earlier ones: the values as plain types, and what
            builds their objects.
        console: where the command prints.
    """

    config: dict[str, Any]
    own: dict[str, Any]
    objects: Objects
    parse: Parse
    console: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True))

    @property
    def run_dir(self) -> Path:
        """The run directory."""
        return Path(self.config["run_dir"]).expanduser()

    def say(self, text: str) -> None:
        """Print one line, without markup and control characters."""
        self.console.print(printable(text, keep=""), markup=False)


def open_run(call: Call, stages: Sequence[str] | None = None) -> tuple[Experiment, Graph]:
    """The experiment of a call, its stages in its pipeline and its monitors watching.

    Args:
        call: of the command.
        stages: names or kinds of those that it may run; None: any. The models that they load must be there.
    """
    from trackrec.recipe.build import build_experiment, check_models
    from trackrec.recipe.graph import add_stages
    from trackrec.runs.hooks import call_hooks

    experiment = build_experiment(call.config, call.objects, call.say)
    graph = add_stages(experiment)
    check_models(experiment, experiment.pipeline.choose(stages))
    experiment.pipeline.spread = partial(_spread, experiment)
    experiment.pipeline.after_stage = call_hooks(experiment.pipeline, experiment.monitors)
    return experiment, graph


def _spread(experiment: Experiment, stage: Stage, work: Path) -> StageResult:
    """Run a stage in several processes, which load the models themselves."""
    from trackrec.pipeline.processes import run_in_processes
    from trackrec.recipe.models import drop_models

    drop_models(experiment)
    return run_in_processes(stage.name, work, stage.processes)
