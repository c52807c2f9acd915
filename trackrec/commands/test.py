"""``trackrec test``: reads the test split, and counts how often that was done."""

from __future__ import annotations

from jsonargparse import ArgumentParser

from trackrec.commands.call import Call, open_run
from trackrec.commands.results import run_and_show
from trackrec.recipe.graph import add_test
from trackrec.recipe.names import TEST


def add_arguments(parser: ArgumentParser) -> None:
    """The command has no arguments of its own."""


def run(call: Call) -> None:
    """Measure V and the arms on test rows, and print what was found."""
    experiment, graph = open_run(call)
    add_test(experiment, graph)
    run_and_show(call, experiment, [TEST], "test")
