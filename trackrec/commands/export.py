"""``trackrec export``: the nets of one arm as a bundle, from which a server answers requests; or an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from trackrec.commands.call import Call, open_run
from trackrec.runtime.errors import SettingError


def add_arguments(parser: ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("--output", type=Path, required=True, help="Folder to write; it must not exist.")
    parser.add_argument("--arm", type=str, default="reccot", help="The arm whose nets are written.")
    parser.add_argument(
        "--seed",
        type=int | Literal["all"] | None,
        default=None,
        help="Of its training; all: the mean of all; null: the first.",
    )
    parser.add_argument(
        "--embed_items", type=bool, default=True, help="Encode the items' texts too, so that a user's text finds items."
    )
    parser.add_argument(
        "--adapter",
        type=Literal["G", "V"] | None,
        default=None,
        help="Instead: the adapter of the generator or the validator, for PEFT and vLLM.",
    )
    parser.add_argument("--merged", type=bool, default=False, help="With --adapter: a whole model.")
    parser.add_argument(
        "--push_to_hub", type=str | None, default=None, help="With --adapter: a repository on the Hugging Face Hub."
    )


def run(call: Call) -> None:
    """Write the bundle, or the adapter."""
    experiment, graph = open_run(call)
    own, output = call.own, Path(call.own["output"])
    if own["adapter"] is not None:
        from trackrec.serving.adapter import export_adapter

        export_adapter(experiment, graph, own["adapter"], output, own["merged"], own["push_to_hub"])
        return
    if own["merged"] or own["push_to_hub"] is not None:
        raise SettingError(
            "--merged and --push_to_hub go with --adapter G or V. A bundle holds ratings of single users and isn't "
            "uploaded."
        )
    from trackrec.serving.export import export

    export(experiment, own["arm"], own["seed"], output, own["embed_items"])
