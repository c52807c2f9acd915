"""``trackrec export``: the net of one arm as ONNX, with what a server needs to feed it."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser

from trackrec.commands.call import Call, open_run


def add_arguments(parser: ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("--output", type=Path, required=True, help="Folder to write; it must not exist.")
    parser.add_argument("--arm", type=str, default="reccot", help="The arm whose net is written.")
    parser.add_argument("--seed", type=int | None, default=None, help="Of its training; null is the first.")


def run(call: Call) -> None:
    """Write the folder."""
    from trackrec.serving.export import export

    experiment, _ = open_run(call)
    export(experiment, call.own["arm"], call.own["seed"], Path(call.own["output"]))
