"""YAML as configurations have it: no key twice, and words that YAML takes for numbers stay words."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_type_hints

import jsonargparse
import yaml

from trackrec.interactions import RatingSource
from trackrec.prompts.settings import PromptSettings
from trackrec.runtime.errors import TrackRecError

_NULL, _BOOL, _MERGE = (f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "merge"))
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_load_plain = jsonargparse.get_loader("yaml")


class YamlError(TrackRecError):
    """A YAML text says something twice, or ``yes`` where a text is wanted.

    No ValueError: jsonargparse would take one for a value of another type, and go on.
    """


def use_strict_yaml() -> None:
    """Let jsonargparse read every YAML, files and values of flags alike, as `load` does."""
    jsonargparse.set_loader("yaml", load, exceptions=(yaml.YAMLError,))


def load(stream: str, path: str = "") -> Any:
    """The value of a YAML text, with numbers as they are written where a text is wanted.

    Args:
        stream: the text.
        path: the file that it is from, for errors.

    Raises:
        YamlError: see `check_yaml`.
        yaml.YAMLError: it is no YAML.
    """
    node = yaml.compose(stream, Loader=_Loader)
    if not isinstance(node, yaml.CollectionNode):
        return _load_plain(stream)
    _check(node, path or "a file or value that the configuration names")
    for _, part in sorted(_texts(node), key=lambda found: -found[1].start_mark.index):
        if part.tag != _NULL:
            quoted = part.value.replace("'", "''")
            stream = f"{stream[: part.start_mark.index]}'{quoted}'{stream[part.end_mark.index :]}"
    return _load_plain(stream)


def check_yaml(text: str, name: str = "") -> None:
    """Check a YAML text.

    Args:
        text: of a file or a flag.
        name: of the file or the flag, for errors.

    Raises:
        YamlError: a mapping has a key twice, or a word of a prompt or the name of a column is one that YAML takes for
            true or false.
        yaml.YAMLError: it is no YAML.
    """
    node = yaml.compose(text, Loader=_Loader)
    if isinstance(node, yaml.CollectionNode):
        _check(node, name)


def _check(node: yaml.Node, name: str) -> None:
    where = f"{name}: " if name else ""
    if repeated := next(_repeated(node, "", {}, set()), None):
        path, first, second = repeated
        lines = f"on lines {first} and {second}" if first != second else f"twice on line {first}"
        raise YamlError(f"{where}{path} is given {lines}, and only one of the two can hold. Take the other one out.")
    for path, part in _texts(node):
        if part.tag == _BOOL:
            raise YamlError(
                f"{where}{path} on line {part.start_mark.line + 1} is a text, but YAML reads {part.value} as true or "
                f'false: put quotes round it, "{part.value}".'
            )


def _repeated(node: yaml.Node, path: str, lines: dict[str, int], seen: set[int]) -> Iterator[tuple[str, int, int]]:
    """Keys that are given twice: the dotted path, and the lines of both.

    ``loop.rounds: 1`` beside ``loop: {rounds: 2}`` is such a key too: jsonargparse reads the two alike.

    Args:
        node: where to look.
        path: of the node.
        lines: of the keys met so far, by their paths; grows.
        seen: ids of the nodes met so far, since an alias can hold itself; grows.
    """
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, part in enumerate(node.value):
            yield from _repeated(part, f"{path}[{number}]", lines, seen)
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if key.tag == _MERGE:  # several may be merged
            continue
        own, line = str(getattr(key, "value", "")), key.start_mark.line + 1
        full = f"{path}.{own}" if path else own
        if full in lines:
            yield full, lines[full], line
        lines[full] = line
        yield from _repeated(value, full, lines, seen)


def _texts(root: yaml.Node) -> Iterator[tuple[str, yaml.ScalarNode]]:
    """Plain scalars where a text is wanted, words of prompts and columns of datasets, with their dotted keys."""
    for section, key, value in _arguments(root):
        if section == "prompts":
            wanted = key in _words()
        else:
            key = key.removeprefix("init_args.")
            wanted = key in _columns()
            section = "dataset.init_args"
        for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if wanted and isinstance(part, yaml.ScalarNode) and not part.style:
                yield f"{section}.{key}", part


def _arguments(root: yaml.Node) -> Iterator[tuple[str, str, yaml.Node]]:
    """Every key under ``prompts`` and ``dataset``, nested or dotted: the section, the rest of the key, the value."""

    def flat(node: yaml.Node, path: str, depth: int) -> Iterator[tuple[str, yaml.Node]]:
        yield path, node
        if depth and isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    yield from flat(value, f"{path}.{key.value}" if path else key.value, depth - 1)

    for path, value in flat(root, "", 4):
        section, _, key = path.partition(".")
        if key and section in ("prompts", "dataset"):
            yield section, key, value


@cache
def _words() -> frozenset[str]:
    return frozenset(key.name for key in fields(PromptSettings) if key.type == "str")


@cache
def _columns() -> frozenset[str]:
    """Arguments of the datasets, and of their groups, that are texts or lists of them and can be no number."""
    wanted: dict[str, bool] = {}
    for source in RatingSource.__subclasses__():
        hints = get_type_hints(source.__init__)
        for name in inspect.signature(source).parameters:
            group = hints.get(name)
            own = {f"{name}.{key}": hint for key, hint in get_type_hints(group).items()} if is_dataclass(group) else {}
            for key, hint in (own or {name: group}).items():
                wanted[key] = wanted.get(key, True) and _kinds(hint) <= {str, type(None)}
    return frozenset(name for name, is_text in wanted.items() if is_text)


def _kinds(hint: Any) -> set[Any]:
    """The plain types of a union, and those in its lists."""
    inner = get_args(hint)
    return set().union(*map(_kinds, inner)) if inner else {hint}
