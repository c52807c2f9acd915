"""``trackrec export``: the nets of one arm as a bundle, from which a server answers requests."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lightning.pytorch.cli import LightningArgumentParser

from trackrec.commands.call import Call, open_run

HELP = "Write the nets of one arm as a bundle: ONNX, feature maps, states of the users, model card."


def add_arguments(parser: LightningArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("--output", type=Path, required=True, help="Folder to write; it must not exist.")
    parser.add_argument("--arm", type=str, default="reccot", help="The arm whose nets are written.")
    parser.add_argument(
        "--seed",
        type=int | Literal["all"] | None,
        default=None,
        help="Of its training; all: the mean of all; null: the first.",
    )


def run(call: Call) -> None:
    """Write the bundle."""
    from trackrec.serving.export import export

    experiment, _ = open_run(call)
    export(experiment, call.own["arm"], call.own["seed"], Path(call.own["output"]))
