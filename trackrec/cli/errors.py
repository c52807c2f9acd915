"""Short errors for the command line: what is wrong, where, and what was probably meant."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from trackrec.llm.memory import ran_out
from trackrec.runtime.errors import TrackRecError, reason
from trackrec.runtime.terminal_text import printable

_LINES = 5
_NO_SPACE = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_AGAIN = "and run the same command again: it goes on where this stopped."
_WIDTH = 300


def mendable(error: BaseException) -> list[str]:
    """At most five lines about an error that the user can mend; empty where it is a fault of trackrec's.

    Beside what trackrec itself finds these are a full disk, a missing permission or another refusal of the file system,
    and memory that is full.
    """
    if isinstance(error, TrackRecError):
        return ["trackrec: error:", *printable(str(error)).split("\n")[: _LINES - 1]]
    if isinstance(error, OSError) and (error.errno in _NO_SPACE or error.filename is not None):
        where = printable(str(error.filename or "while a stage was written"), keep="")
        remedy = "Make room" if error.errno in _NO_SPACE else "Mend that"
        return ["trackrec: error:", f"{error.strerror}: {where}", f"What is done stays. {remedy} {_AGAIN}"]
    if ran_out(error):
        return [
            "trackrec: error:",
            f"memory is full: {_cut(reason(error))}",
            "`trackrec plan` shows what each stage holds and which key makes it smaller.",
            f"What is done stays. Lower that key {_AGAIN}",
        ]
    return []


FAULT = (
    "This is a fault of trackrec, not of your input. Please report it with the lines above, the command and the output "
    "of `trackrec --version`; README.md says where."
)


def explain(parser: Any, message: str, ex: Exception | None) -> list[str]:
    """At most five lines for a parse error.

    Args:
        parser: knows the keys that exist.
        message: jsonargparse's message, which may hold a page of alternatives.
        ex: the exception behind it, if any.
    """
    text = str(ex) if ex is not None and len(str(ex)) > len(message) else message
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    wrong = _unknown(text)
    short = [_cut(line) for line in lines[:2]]
    if wrong:
        near = difflib.get_close_matches(wrong, list(dict.fromkeys(_names(parser, wrong))), n=3, cutoff=0.6)
        short.append(f"did you mean {', '.join(near)}?" if near else "`trackrec fit --help` lists every key.")
    return ["trackrec: error:", *short][:_LINES]


def broken_file(args: Sequence[str]) -> list[str]:
    """At most five lines about the first ``--config`` file that is no YAML; empty where all are, or aren't there."""
    for file in config_files(args):
        try:
            yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except OSError:
            continue  # the parser says so, with what it looked for
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
            problem = getattr(error, "problem", None) or reason(error)
            return ["trackrec: error:", _cut(f"{file}{where} is no YAML: {problem}.")]
    return []


def config_files(args: Sequence[str]) -> list[str]:
    """What follows ``--config`` on a command line, in its order."""
    words = [word for arg in args for word in (arg.split("=", 1) if arg.startswith(("--config=", "-c=")) else [arg])]
    return [value for flag, value in pairwise(words) if flag in ("-c", "--config")]


def _unknown(text: str) -> str:
    """The key, argument or class name that jsonargparse doesn't know; empty where the error is another."""
    for pattern in (
        r"unrecognized arguments: --([\w.\-]+)",
        r"[Oo]ption '([\w.]+)' is not accepted",
        r"does not accept option '([\w.]+)'",
        r"[Kk]ey '([\w.]+)' is not expected",
        r"No action for key \"([\w.]+)\"",
        r"Expected a dot import path string: ([\w.]+)",
        r"invalid choice: '?([\w.\-]+)'?",
    ):
        if found := re.search(pattern, text):
            return found.group(1)
    return ""


def _names(parser: Any, wrong: str) -> Iterator[str]:
    """What could have been meant: full keys, their last parts, class names and subcommands."""
    for one in (parser, *_subparsers(parser)):
        for action in one._actions:
            keys = [option.removeprefix("--") for option in action.option_strings if option.startswith("--")]
            for key in keys:
                yield key
                if "." not in wrong:
                    yield key.rsplit(".", 1)[-1]
            yield from _class_names(getattr(action, "_typehint", None))
    yield from ("fit", "test", "predict")


def _subparsers(parser: Any) -> list[Any]:
    """Parsers of the subcommands."""
    choices = [action.choices for action in parser._actions if isinstance(getattr(action, "choices", None), dict)]
    return [sub for group in choices for sub in group.values()]


def _class_names(hint: Any) -> Iterator[str]:
    """Short names that a key accepts, and the arguments of those classes."""
    import inspect

    from trackrec import ctr

    options = list(getattr(hint, "__subclasses__", list)()) if isinstance(hint, type) else []
    if "Callable" in str(hint):
        options = [value for name in ctr.__all__ if inspect.isclass(value := getattr(ctr, name))]
    for option in options:
        if not option.__module__.startswith("trackrec."):
            continue
        yield option.__name__
        yield from (name for name in inspect.signature(option).parameters)


def _cut(line: str) -> str:
    line = printable(line, keep="")
    return line if len(line) <= _WIDTH else f"{line[:_WIDTH]} ..."
