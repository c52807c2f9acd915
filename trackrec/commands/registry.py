"""The commands, one line each. A command's module is imported when it is called: a list of words stays cheap."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple


class Command(NamedTuple):
    """One command.

    Attributes:
        name: as it is typed. The module of that name in this package holds its own arguments, ``add_arguments``, and
            what it runs, ``run``.
        help: its line in ``trackrec --help``.
        config: whether it reads the configuration of an experiment.
    """

    name: str
    help: str
    config: bool = True

    def load(self) -> Any:
        """The module."""
        return import_module(f"trackrec.commands.{self.name}")


_IN_ORDER = (
    Command("init", "Look at your files of ratings and write a configuration that runs on them.", config=False),
    Command("fit", "Run every stage that is not up to date, from ratings to recommender; goes on where it stopped."),
    Command("test", "Read the test split: V with and without RecCoT, every CTR arm, intervals."),
    Command("predict", "Probabilities for a table of (user_id, item_id) requests."),
    Command("refresh", "Write texts and vectors of all users as a new generation; rewrites only what changed."),
    Command("generations", "List what refresh has written, check it, go back to an older one, remove.", config=False),
    Command("forget", "Remove a user from generations and events; names the runs that hold them.", config=False),
    Command("export", "Write the nets of one arm as a bundle: ONNX, feature maps, states of the users, model card."),
    Command("store", "Build, show or verify the store of texts and states from which a server answers.", config=False),
    Command("serve", "Answer requests over HTTP from a bundle and a store.", config=False),
    Command("tune", "Search hyper-parameters of the CTR net on validation rows; goes on where it stopped."),
    Command("plan", "What each language-model stage will hold in memory, and which key to turn; loads no model."),
    Command("data", "Show what is understood of the ratings, in one screen; loads no model and writes nothing."),
    Command("sweep", "Run variants of an experiment with several seeds, and print one table of what they change."),
    Command("report", "Write what the run directory holds as one HTML page and a Markdown file; runs nothing."),
)
COMMANDS = {command.name: command for command in _IN_ORDER}
