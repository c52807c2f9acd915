"""``trackrec predict``: probabilities for a table of (user_id, item_id) requests."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from trackrec.commands.call import Call, open_run


def add_arguments(parser: ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("--requests", type=Path, required=True, help="A file with user_id and item_id.")
    parser.add_argument("--output", type=Path, required=True, help="File to write: .parquet, .csv, .tsv or .jsonl.")
    parser.add_argument("--column", type=str, default="p", help="Name of the column for the probabilities.")
    parser.add_argument("--arm", type=str, default="reccot", help="The arm whose nets predict.")
    parser.add_argument(
        "--unknown",
        type=Literal["answer", "error", "empty", "cold"],
        default="answer",
        help="answer: by the best that can, which a column names; empty: no p for unknown ids; cold: users without a "
        "history are answered as cold ones.",
    )


def run(call: Call) -> None:
    """Write the predictions."""
    from trackrec.serving.predict import predict

    experiment, graph = open_run(call)
    own = call.own
    predict(experiment, graph, Path(own["requests"]), Path(own["output"]), own["arm"], own["unknown"], own["column"])
