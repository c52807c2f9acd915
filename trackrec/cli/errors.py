"""Short errors for the command line: what is wrong, where, and what was probably meant."""

from __future__ import annotations

import difflib
import errno
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from trackrec.cli.given import CONFIG_FLAGS, flag_values
from trackrec.cli.yaml_files import YamlError, check_yaml
from trackrec.commands.registry import COMMANDS
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
    if _ran_out(error):
        return [
            "trackrec: error:",
            f"memory is full: {_cut(reason(error))}",
            "`trackrec plan` shows what each stage holds and which key makes it smaller.",
            f"What is done stays. Lower that key {_AGAIN}",
        ]
    return []


def _ran_out(error: BaseException) -> bool:
    """Whether memory is full; torch isn't imported to know it."""
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from trackrec.llm.memory import ran_out

    return ran_out(error)


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
    if said := _no_class(text) or _other_type(text):
        return ["trackrec: error:", *map(_cut, said)]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    wrong = _unknown(text)
    short = [_cut(line) for line in lines[:2]]
    if wrong:
        near = difflib.get_close_matches(wrong, list(dict.fromkeys(_names(parser, wrong))), n=3, cutoff=0.6)
        short.append(f"did you mean {', '.join(near)}?" if near else "`trackrec fit --help=all` lists every key.")
    return ["trackrec: error:", *short][:_LINES]


def wrong_yaml(args: Sequence[str]) -> list[str]:
    """At most five lines about the first ``--config`` file that is no YAML, or says something twice.

    Empty where all are fine, or aren't there. A flag's value that is a mapping is looked at too.
    """
    for _, flag, value, _ in flag_values(args):
        is_file = flag in CONFIG_FLAGS
        if not is_file and not value.lstrip().startswith(("{", "[")):
            continue
        name = value if is_file else flag
        try:
            check_yaml(Path(value).read_text(encoding="utf-8") if is_file else value, name)
        except OSError:
            continue  # the parser says so, with what it looked for
        except YamlError as error:
            return ["trackrec: error:", _cut(str(error))]
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            if not is_file:
                continue  # a text that only looks like YAML
            mark = getattr(error, "problem_mark", None)
            where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
            problem = getattr(error, "problem", None) or reason(error)
            return ["trackrec: error:", _cut(f"{name}{where} is no YAML: {problem}.")]
    return []


def config_files(args: Sequence[str]) -> list[str]:
    """What follows ``--config`` on a command line, in its order."""
    return [value for _, flag, value, _ in flag_values(args) if flag in CONFIG_FLAGS]


def _no_class(text: str) -> list[str]:
    """What is wrong with a class path, in our words; empty where the error is another."""
    found = re.search(r"Problem with given class_path '([\w.]+)':\s*(.+)", text)
    if not found or not (re.search("No module named|has no attribute", found[2])):
        return []
    key = re.search(r'Parser key "([\w.]+)"', text)
    where = f"{key[1]}: " if key else ""
    module, _, name = found[1].rpartition(".")
    names = vars(sys.modules[module]) if module in sys.modules else {}
    near = difflib.get_close_matches(name, [one for one, value in names.items() if isinstance(value, type)], n=3)
    said = f"{where}there is no class {found[1]} ({found[2].strip()})."
    if near:
        return [said, f"did you mean {', '.join(f'{module}.{one}' for one in near)}?"]
    return [f"{said} Give the path of a class that Python can import: of a file here with PYTHONPATH=. set."]


_TYPES = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "NoneType": "null",
    "list": "a list in brackets",
}


def _other_type(text: str) -> list[str]:
    """What is wrong with a value of another plain type, in our words; empty where the error is another."""
    key, value = re.search(r'Parser key "([\w.]+)"', text), re.search(r"(?:Got|Given) value: (.*)", text)
    expected = re.findall(r"Expected a <class '(\w+)'>", text)
    if key and (unit := re.search(r"Not of type (?:Seconds|GiB): (.*)", text)):
        return [f"{key[1]} must be {unit[1]}."]
    if not key or not value or not expected or any(kind not in _TYPES for kind in expected):
        return []
    if text.count("    - ") != len(expected) and "Union" in text:  # something else is allowed, too
        return []
    wanted, got = " or ".join(_TYPES[kind] for kind in expected), value[1].strip()
    if "str" in expected and re.fullmatch(r"True|False|-?[\d.]+(e-?\d+)?", got):
        read = {"True": "true (or yes, on)", "False": "false (or no, off)"}.get(got, got)
        return [f'{key[1]} must be {wanted}, got {read} without quotes. Put quotes round it, as in "{got}".']
    return [f"{key[1]} must be {wanted}, got {got}."]


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
    yield from COMMANDS


def _subparsers(parser: Any) -> list[Any]:
    """Parsers of the subcommands."""
    choices = [action.choices for action in parser._actions if isinstance(getattr(action, "choices", None), dict)]
    return [sub for group in choices for sub in group.values()]


def _class_names(hint: Any) -> Iterator[str]:
    """Short names that a key accepts, and the arguments of those classes."""
    import inspect

    options = list(getattr(hint, "__subclasses__", list)()) if isinstance(hint, type) else []
    if "Callable" in str(hint):
        from trackrec import ctr

        options = [value for name in ctr.__all__ if inspect.isclass(value := getattr(ctr, name))]
    for option in options:
        if not option.__module__.startswith("trackrec."):
            continue
        yield option.__name__
        yield from (name for name in inspect.signature(option).parameters)


def _cut(line: str) -> str:
    line = printable(line, keep="")
    return line if len(line) <= _WIDTH else f"{line[:_WIDTH]} ..."
