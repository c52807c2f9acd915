"""Short errors for the command line: what is wrong, where, and what was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from trackrec.align.module import StaleReferenceError
from trackrec.ctr.arms.texts import MissingEmbeddingError
from trackrec.interactions import DataError
from trackrec.llm.memory import MemoryLimitError
from trackrec.llm.vllm.process import VLLMError
from trackrec.pipeline.lock import ForeignFilesError, RunLockedError
from trackrec.pipeline.stage import StageError
from trackrec.runtime.errors import reason
from trackrec.runtime.packages import MissingPackageError
from trackrec.runtime.terminal_text import plain
from trackrec.storage.schemas import TableError

_LINES = 5
_WIDTH = 300


def known_errors() -> tuple[type[Exception], ...]:
    """Errors whose message is all that a user needs."""
    plain = (ValueError, FileNotFoundError, FloatingPointError)
    found = (DataError, StageError, TableError, RunLockedError, ForeignFilesError, MissingEmbeddingError)
    return (*found, StaleReferenceError, MemoryLimitError, MissingPackageError, VLLMError, *plain)


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
    flags = ("-c", "--config")
    files = [value for flag, value in pairwise(args) if flag in flags]
    files += [arg.partition("=")[2] for arg in args if arg.startswith(tuple(f"{flag}=" for flag in flags))]
    for file in files:
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
    line = plain(line, keep="")
    return line if len(line) <= _WIDTH else f"{line[:_WIDTH]} ..."
