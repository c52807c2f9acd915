"""The front door: what can be answered without the configuration's classes is, within a second; the rest is `app`'s."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackrec.commands.registry import COMMANDS, Command

if TYPE_CHECKING:
    from jsonargparse import Namespace

HELP_FLAGS = ("-h", "--help")
_LONGEST = 100
_TELLS_KEYS = "fit"  # its help is the one of the configuration


def run_cli(args: list[str] | None = None) -> None:
    """Run the command line; an error that the user can mend is a short message and exit status 1."""
    words = sys.argv[1:] if args is None else list(args)
    if words == ["--version"]:
        from trackrec import __version__

        sys.stdout.write(f"trackrec {__version__}\n")
        return
    if words[:1] and words[0] in HELP_FLAGS:
        sys.stdout.write(overview())
        return
    if not words or (words[0] not in COMMANDS and not words[0].startswith("-")):
        sys.stderr.write("\n".join(["trackrec: error:", *no_command(words)]) + "\n")
        raise SystemExit(2)
    from trackrec.cli.quiet import quiet_libraries

    quiet_libraries()
    try:
        _run(words)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted: the same command goes on where this stopped\n")
        raise SystemExit(130) from None
    except Exception as error:
        from trackrec.cli.errors import FAULT, mendable

        if lines := mendable(error):
            sys.stderr.write("\n".join(lines) + "\n")
            raise SystemExit(1) from error
        error.add_note(FAULT)
        raise


def overview() -> str:
    """What ``trackrec --help`` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {command.name:{width}}  {command.help}" for command in COMMANDS.values()]
    return "\n".join(
        [
            "usage: trackrec COMMAND [--config FILE] [--KEY VALUE ...]",
            "",
            *lines,
            "",
            "trackrec COMMAND --help tells the arguments of a command.",
            f"trackrec {_TELLS_KEYS} --help tells the keys of a configuration; trackrec --version the version.",
            "",
        ]
    )


def no_command(words: Sequence[str]) -> list[str]:
    """What is wrong where the first word is no command, or none was given."""
    from trackrec.runtime.terminal_text import printable

    known = f"Commands: {', '.join(COMMANDS)}. `trackrec --help` says what each does."
    if not words:
        return ["a command is missing.", known]
    near = difflib.get_close_matches(words[0], COMMANDS, n=1)
    meant = f" Did you mean {near[0]}?" if near else ""
    return [f"there is no command {printable(words[0], keep='')[:_LONGEST]!r}.{meant}", known]


def _run(words: list[str]) -> None:
    command, rest = COMMANDS.get(words[0]), words[1:]
    if command is not None and not command.config:
        _run_plain(command, rest)
        return
    if command is not None and command.name != _TELLS_KEYS and any(word in HELP_FLAGS for word in rest):
        sys.stdout.write(_own_arguments(command))
        return
    from trackrec.runtime.lightning_import import import_lightning

    import_lightning()
    from trackrec.cli.app import TrackRecCLI

    TrackRecCLI(words)


def _run_plain(command: Command, words: list[str]) -> None:
    """Run a command that reads no configuration."""
    from trackrec.cli.errors import wrong_yaml
    from trackrec.cli.given import read_as_meant, with_brackets
    from trackrec.cli.short_errors import ShortErrors
    from trackrec.cli.yaml_files import use_strict_yaml
    from trackrec.commands.call import Call

    use_strict_yaml()
    if lines := wrong_yaml(words):
        sys.stderr.write("\n".join(lines) + "\n")
        raise SystemExit(2)
    module = command.load()
    parser = ShortErrors(prog=f"trackrec {command.name}", description=command.help)
    module.add_arguments(parser)
    own = parser.parse_args(with_brackets(parser, words))
    read_as_meant(own, set(vars(own)))
    module.run(Call({}, own.as_dict(), _no_objects, _parse))


def _own_arguments(command: Command) -> str:
    """The help of a command with a configuration: its own arguments, and where the keys of the experiment stand."""
    from trackrec.cli.short_errors import ShortErrors

    keys = f"Keys of the experiment may follow too, as --loop.rounds 2: see `trackrec {_TELLS_KEYS} --help`."
    parser = ShortErrors(prog=f"trackrec {command.name}", description=command.help, epilog=keys)
    parser.add_argument("-c", "--config", type=str, help="A YAML file; several may be given, the later ones hold.")
    command.load().add_arguments(parser)
    return str(parser.format_help())


def _no_objects(changes: Mapping[str, Any] | None = None) -> Namespace:
    raise AssertionError(f"a command without a configuration has no objects to build, with {changes} or without")


def _parse(files: Sequence[Path]) -> Any:
    from trackrec.runtime.lightning_import import import_lightning

    import_lightning()
    from trackrec.cli.app import parse_run

    return parse_run(files)
