"""``trackrec fit``: every stage that is not up to date, from ratings to the recommender."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser

from trackrec.commands.call import Call, open_run
from trackrec.commands.early import check_early
from trackrec.commands.results import run_and_show
from trackrec.ctr.check import check_settings
from trackrec.recipe.arm_texts import stages_read
from trackrec.recipe.experiment import Experiment
from trackrec.recipe.names import EMBED
from trackrec.runtime.errors import MissingFileError
from trackrec.runtime.packages import need


def add_arguments(parser: ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("--stages", type=list[str] | str | None, help="Only these stages, by name or kind: embed,ctr")
    parser.add_argument("--reuse", type=Path | None, help="A run or a folder of runs to take equal stages from.")


def run(call: Call) -> None:
    """Run the stages and print what they found on validation rows."""
    given = call.own["stages"]
    stages = [name.strip() for name in given.split(",")] if isinstance(given, str) else given
    experiment, graph = open_run(call, stages)
    experiment.pipeline.reuse = reused_folder(call.own["reuse"])
    check_settings(experiment.ctr)
    if not stages:
        check_packages(experiment)
    check_early(experiment, graph, experiment.pipeline.choose(stages))
    run_and_show(call, experiment, stages, "valid")


def check_packages(experiment: Experiment) -> None:
    """Whether the packages that a whole run needs are installed, before its hours.

    Raises:
        MissingPackageError: naming the setting and the extra to install.
    """
    if EMBED in stages_read(experiment):
        need(f"embed.model {experiment.embed.model}", "text", "sentence_transformers")
    backbones = {"backbone": experiment.backbone, "validator_backbone": experiment.validator_backbone}
    for key, settings in backbones.items():
        if settings is not None and settings.quantize != "none":
            need(f"{key}.quantize {settings.quantize}", "quantize", "bitsandbytes")
        if settings is not None and settings.gguf_file:
            need(f"{key}.gguf_file", "gguf", "gguf")
    for section, training in experiment.trainings.items():
        optimizer = getattr(training.model.get("optimizer"), "name", "adamw")
        if "8bit" in optimizer:
            need(f"{section}.model.optimizer.name {optimizer}", "quantize", "bitsandbytes")


def reused_folder(given: Path | None) -> Path | None:
    """The folder of ``--reuse``.

    Raises:
        MissingFileError: there is none.
    """
    folder = Path(given).expanduser() if given else None
    if folder is not None and not folder.is_dir():
        raise MissingFileError(f"--reuse: no folder {str(folder)!r}. Give a run directory, or a folder of them.")
    return folder
