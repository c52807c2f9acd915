"""What was typed, made into what is meant: lists without brackets, paths as a shell reads them, durations."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from types import NoneType
from typing import Any, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser, Namespace

from trackrec.runtime.errors import SettingError
from trackrec.runtime.quantities import parse_seconds
from trackrec.runtime.shell_paths import expand_path

CONFIG_FLAGS = ("-c", "--config")
# Paths among the values that are texts; a value of the type Path always is one. A teacher's `model` can be a server's.
_PATHS = re.compile(
    r"(?:(?:^|\.)(?:backbone|validator_backbone|embed)\.model"
    r"|^dataset\.init_args\.(?:ratings|items|users|reviews)(?:\.\w+)?"
    r"|\.(?:path|dirpath|root|dir|folder|file|filename|\w+_(?:dir|file|folder|root)))$"
)
_CLASH = "\u200b"  # jsonargparse puts it before a key that is also a method of its Namespace, such as `items`
_MAX_TIME = re.compile(r"\.trainer\.max_time$")
_LIGHTNING_TIME = re.compile(r"\d+:\d\d:\d\d:\d\d")


def flag_values(args: Sequence[str]) -> Iterator[tuple[int, str, str, bool]]:
    """Every ``--flag value`` and ``--flag=value``: the place of the value, flag, value, and whether in one word."""
    for place, word in enumerate(args):
        if not word.startswith("-"):
            continue
        flag, equals, value = word.partition("=")
        if equals:
            yield place, flag, value, True
        elif place + 1 < len(args):
            yield place + 1, word, args[place + 1], False


def expand_config_files(args: Sequence[str]) -> list[str]:
    """The command line with the paths of its ``--config`` files as a shell reads them.

    Raises:
        SettingError: see `expand_path`.
    """
    words = list(args)
    for place, flag, value, joined in flag_values(args):
        if flag in CONFIG_FLAGS:
            path = expand_path(value, flag)
            words[place] = f"{flag}={path}" if joined else path
    return words


def with_default_classes(args: Sequence[str], defaults: Mapping[str, str]) -> list[str]:
    """The command line with the classes that neither it nor its ``--config`` files name.

    The parser can't be given such a default: where a file names another class, jsonargparse keeps the default's
    arguments that this one has too, so that ``TableTeacher`` would get the ``fraction`` of `ProfileTeacher`.

    Args:
        args: the command line.
        defaults: the key of a class, such as ``ctr.net``, and its default.
    """
    flags = {flag.removeprefix("--") for _, flag, _, _ in flag_values(args)}
    files = [_loaded(value) for _, flag, value, _ in flag_values(args) if flag in CONFIG_FLAGS]

    def is_named(key: str) -> bool:
        section = key.partition(".")[0]
        return bool({key, f"{key}.class_path", section} & flags) or any(_names_class(file, key) for file in files)

    first = [f"--{key}={path}" for key, path in defaults.items() if not is_named(key)]
    return [*args[:1], *first, *args[1:]]  # before what only sets arguments of the class


def with_short_names(args: Sequence[str], names: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The command line with words such as ``--engine ray`` as the classes that they stand for.

    Args:
        args: the command line.
        names: flag -> word -> class.
    """
    words = list(args)
    for place, flag, value, joined in flag_values(args):
        if value in names.get(flag, {}):
            words[place] = f"{flag}={names[flag][value]}" if joined else names[flag][value]
    return words


def _loaded(path: str) -> Any:
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):  # the parser says what is wrong
        return None


def _names_class(values: Any, key: str) -> bool:
    """Whether a configuration names the class of a key, be it null; arguments alone don't."""
    for name in key.split("."):
        if not isinstance(values, dict):
            return isinstance(values, str)  # a file of its own
        if name not in values:
            return False
        values = values[name]
    return not isinstance(values, dict) or "class_path" in values


def with_brackets(parser: ArgumentParser, args: Sequence[str]) -> list[str]:
    """The command line with ``--ctr.seeds 0,1`` as ``--ctr.seeds [0,1]``, for flags whose value is a plain list."""
    hints = {
        option: hint
        for action in parser._actions
        if action.nargs is None and (hint := _element(getattr(action, "_typehint", None)))
        for option in action.option_strings
    }
    words = list(args)
    for place, flag, value, joined in flag_values(args):
        if flag not in hints or not value.strip() or value.strip().startswith(("[", "--")):
            continue
        if value.strip() in ("null", "None"):
            continue
        parts = [part.strip() for part in value.split(",")]
        listed = json.dumps(parts) if hints[flag] is str else f"[{', '.join(parts)}]"
        words[place] = f"{flag}={listed}" if joined else listed
    return words


def _element(hint: Any) -> Any:
    """The type of the elements of a list of plain values, or of such a list or null; None for any other type."""
    if get_origin(hint) is not list:
        options = [option for option in get_args(hint) if option is not NoneType]
        hint = options[0] if len(options) == 1 else None
    inner = get_args(hint) if get_origin(hint) is list else ()
    return inner[0] if inner and inner[0] in (int, float, str) else None


def read_as_meant(config: Namespace, own: Collection[str]) -> None:
    """Replace the paths of a parsed configuration by what a shell makes of them, and durations by Lightning's form.

    Args:
        config: changed in place.
        own: keys that are the command's own, and typed with ``--``.

    Raises:
        SettingError: see `expand_path`; or a trainer's ``max_time`` is no duration.
    """
    for name, value in list(vars(config).items()):
        if name not in ("config", "__path__"):
            vars(config)[name] = _read(value, name, f"--{name}" if name in own else name)


def _read(value: Any, key: str, shown: str) -> Any:
    if isinstance(value, Namespace | dict):
        values = vars(value) if isinstance(value, Namespace) else value
        for name, part in list(values.items()):
            plain = str(name).removeprefix(_CLASH)
            values[name] = _read(part, f"{key}.{plain}", f"{shown}.{plain}")
        return value
    if isinstance(value, list):
        return [_read(part, key, shown) for part in value]
    if isinstance(value, PurePath):
        return type(value)(expand_path(str(value), shown))
    if isinstance(value, str) and _PATHS.search(key):
        return expand_path(value, shown)
    if isinstance(value, str) and _MAX_TIME.search(key) and not _LIGHTNING_TIME.fullmatch(value):
        try:
            seconds = round(parse_seconds(value))
        except ValueError as error:
            raise SettingError(f"{shown} must be {error}. Lightning's own form is DD:HH:MM:SS.") from error
        minutes, hours = seconds // 60, seconds // 3600
        return f"{hours // 24:02d}:{hours % 24:02d}:{minutes % 60:02d}:{seconds % 60:02d}"
    return value
