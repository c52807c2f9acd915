"""``trackrec fit``: every stage that is not up to date, from ratings to the recommender."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.cli import LightningArgumentParser

from trackrec.commands.call import Call, open_run
from trackrec.commands.results import run_and_show
from trackrec.ctr.check import check_settings
from trackrec.llm.model_files import check_model_path
from trackrec.recipe.arm_texts import stages_read
from trackrec.recipe.names import EMBED
from trackrec.runtime.errors import MissingFileError

HELP = "Run every stage that is not up to date, from ratings to the recommender; goes on where it stopped."


def add_arguments(parser: LightningArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("--stages", type=list[str] | str | None, help="Only these stages, by name or kind: embed,ctr")
    parser.add_argument("--reuse", type=Path | None, help="A run or a folder of runs to take equal stages from.")


def run(call: Call) -> None:
    """Run the stages and print what they found on validation rows."""
    experiment, _ = open_run(call)
    experiment.pipeline.reuse = reused_folder(call.own["reuse"])
    check_settings(experiment.ctr)
    if EMBED in stages_read(experiment):
        check_model_path(experiment.embed.model, "embed")
    chosen = call.own["stages"]
    stages = [name.strip() for name in chosen.split(",")] if isinstance(chosen, str) else chosen
    run_and_show(call, experiment, stages, "valid")


def reused_folder(given: Path | None) -> Path | None:
    """The folder of ``--reuse``.

    Raises:
        MissingFileError: there is none.
    """
    folder = Path(given).expanduser() if given else None
    if folder is not None and not folder.is_dir():
        raise MissingFileError(f"--reuse: no folder {str(folder)!r}. Give a run directory, or a folder of them.")
    return folder
