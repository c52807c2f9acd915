"""The command line of commands that read no experiment: it starts in a second, without torch."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from jsonargparse import ArgumentParser

from trackrec.commands import serve, store
from trackrec.runtime.errors import TrackRecError
from trackrec.runtime.terminal_text import printable

COMMANDS: dict[str, ModuleType] = {"store": store, "serve": serve}

_WIDTH = 300


class LightParser(ArgumentParser):
    """A parser whose errors are two lines, as those of the other commands."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Print what is wrong and exit with status 2."""
        said = " ".join(line.strip() for line in str(message).splitlines() if line.strip())
        sys.stderr.write(f"trackrec: error:\n{printable(said[:_WIDTH], keep='')}\n")
        raise SystemExit(2)


@dataclass(frozen=True)
class LightCall:
    """See `trackrec.commands.plain.PlainCall`."""

    own: dict[str, Any]

    def say(self, text: str) -> None:
        """Print one line."""
        sys.stdout.write(printable(text, keep="") + "\n")


def run_light(name: str, args: list[str]) -> None:
    """Run one of `COMMANDS`; an error that the user can mend is a short message and exit status 1."""
    command = COMMANDS[name]
    parser = LightParser(prog=f"trackrec {name}", description=command.HELP, allow_abbrev=False)
    command.add_arguments(parser)
    own = parser.parse_args(args).as_dict()
    try:
        command.run(LightCall(own))
    except (TrackRecError, OSError) as error:
        if isinstance(error, OSError) and not isinstance(error, TrackRecError) and error.filename is None:
            raise
        sys.stderr.write(f"trackrec: error:\n{printable(str(error), keep='')}\n")
        raise SystemExit(1) from error
