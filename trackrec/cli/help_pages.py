"""``trackrec fit --help``: a page with the keys that matter, and one of every section with all of its keys."""

from __future__ import annotations

import difflib
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jsonargparse import SUPPRESS, ArgumentParser

from trackrec.cli.front import HELP_FLAGS
from trackrec.commands.registry import Command
from trackrec.runtime.errors import SettingError

ALL = "all"
_WIDTH = 120

PAGE: dict[str, tuple[str, ...]] = {
    "The run": ("run_dir", "seed_everything", "monitors"),
    "Ratings and who is compared": (
        "dataset",
        "samples.protocol",
        "samples.threshold",
        "samples.max_history",
        "samples.recent_len",
        "samples.valid",
        "samples.test",
    ),
    "Language models": (
        "backbone.model",
        "backbone.device",
        "backbone.dtype",
        "backbone.quantize",
        "backbone.lora.r",
        "backbone.gradient_checkpointing",
        "validator_backbone",
        "sampler",
        "scoring.batch_tokens",
    ),
    "What they are told": ("prompts.item", "prompts.user", "prompts.like", "prompts.max_words", "prompts.max_history"),
    "The loop of generator (G) and validator (V)": (
        "teacher",
        "loop.rounds",
        "loop.users",
        "loop.targets",
        "loop.validator_start",
        "loop.validator_lr",
        "loop.eval_samples",
    ),
    "Trainings of G and V": (
        "distill.model.lr",
        "distill.data.batch_size",
        "align.model.lr",
        "align.model.beta",
        "align.sets.min_spread",
        "rec_tune.model.lr",
        "rec_tune.data.batch_size",
        "rec_tune.data.samples_per_history",
    ),
    "Text vectors and click models": (
        "embed.model",
        "ctr.net",
        "ctr.connector",
        "ctr.arms",
        "ctr.seeds",
        "ctr.model.lr",
        "ctr.trainer.max_epochs",
    ),
}
"""The keys of the first page, under their headings."""


def wanted_help(words: Sequence[str]) -> str | None:
    """What a command line asks help about: a section, ``all``, or empty for the first page; None: it doesn't ask."""
    for word in words:
        flag, equals, section = word.partition("=")
        if flag in HELP_FLAGS:
            return section if equals else ""
    return None


def help_page(
    parser: ArgumentParser, command: Command, about: str, own: Sequence[str], classes: Mapping[str, str]
) -> str:
    """The page that was asked for.

    Args:
        parser: of the command.
        command: the command.
        about: see `wanted_help`.
        own: keys that are the command's own.
        classes: key -> class that stands where a configuration names none.

    Raises:
        SettingError: there is no such section.
    """
    if about == ALL:
        return str(parser.format_help())
    actions = {action.dest: action for action in parser._actions if action.option_strings}
    if not about:
        return "\n".join(_first_page(actions, command, own, classes)) + "\n"
    section = about.removeprefix("--").rstrip(".")
    keys = [key for key in actions if key == section or key.startswith(f"{section}.")]
    if not keys:
        raise SettingError(_no_section(about, command.name, sections(actions)))
    return "\n".join(_section_page(actions, keys, section, classes)) + "\n"


def sections(actions: Mapping[str, Any]) -> list[str]:
    """The first parts of the keys that have several."""
    return list(dict.fromkeys(key.partition(".")[0] for key in actions if "." in key))


def _first_page(
    actions: Mapping[str, Any], command: Command, own: Sequence[str], classes: Mapping[str, str]
) -> Iterator[str]:
    keys = [key for group in PAGE.values() for key in group]
    call = f"trackrec {command.name}"
    yield f"usage: {call} --config FILE [--config FILE ...] [--KEY VALUE ...]"
    yield from (
        "",
        command.help,
        "",
        "A later file holds over an earlier one, a key of the command line over all files.",
    )
    width = max(map(len, [*keys, *own]))
    yield from ("", "This command", *_lines(actions, own, classes, width))
    for heading, group in PAGE.items():
        yield from ("", heading, *_lines(actions, group, classes, width))
    yield from ("", f"{_shown_keys(actions) - len(keys) - len(own)} keys more:")
    yield f"  {call} --help=SECTION   all keys of a section:"
    yield from (f"    {line}" for line in textwrap.wrap(", ".join(sections(actions)), _WIDTH - 8))
    yield f"  {call} --help={ALL}       all keys with their types"
    yield f"  {call} --config FILE --print_config   what a run would take"
    yield f"  {call} --dataset.help MovieLens       the arguments of a class; so for the other classes"


def _shown_keys(actions: Mapping[str, Any]) -> int:
    return sum(map(_is_shown, actions.values()))


def _is_shown(action: Any) -> bool:
    """Whether an action is a key with a value; not a help of a class, nor a section that is read from a file."""
    return action.default is not SUPPRESS and action.dest != "config"


def _lines(actions: Mapping[str, Any], keys: Sequence[str], classes: Mapping[str, str], width: int) -> Iterator[str]:
    """One line for each key: its default and what it is, cut where the line ends."""
    for key in keys:
        line = _line(actions[key], classes, width)
        yield line if len(line) <= _WIDTH else f"{line[: _WIDTH - 4].rstrip()} ..."


def _line(action: Any, classes: Mapping[str, str], width: int) -> str:
    text = re.sub(r"\s+", " ", action.help or "").replace("`", "")
    said = re.sub(r" Default: .*$", "", text)
    return f"  --{action.dest:{width}}  {_default(action, classes):16}  {said}".rstrip()


def _section_page(
    actions: Mapping[str, Any], keys: Sequence[str], section: str, classes: Mapping[str, str]
) -> Iterator[str]:
    """Every key of a section with all that is said of it, and how the arguments of its classes are asked for."""
    shown = [key for key in keys if _is_shown(actions[key])]
    width = max(map(len, shown), default=0)
    yield f"All keys of {section}, with their defaults:"
    for key in shown:
        yield from textwrap.wrap(
            _line(actions[key], classes, width), _WIDTH, subsequent_indent=" " * 8, break_on_hyphens=False
        )
    for key in keys:
        if key.endswith(".help"):
            yield f"  --{key} CLASS   the arguments of a class for {key.removesuffix('.help')}"


def _default(action: Any, classes: Mapping[str, str]) -> str:
    if action.dest in classes:
        return classes[action.dest].rsplit(".", 1)[-1]
    if action.required or action.dest in ("run_dir", "dataset", "backbone.model"):
        return "(required)"
    if action.default is None:
        return "null"
    if isinstance(action.default, bool):
        return str(action.default).lower()
    if isinstance(action.default, list) and any(isinstance(each, dict) for each in action.default):
        return f"{len(action.default)} of them"
    if isinstance(action.default, list):
        return f"[{', '.join(map(str, action.default))}]"
    return str(action.default)


def _no_section(about: str, command: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(about, [*known, ALL], n=1)
    meant = f" Did you mean {near[0]}?" if near else ""
    said = f"--help={about}: no such section.{meant}\nSections: {', '.join([*known, ALL])}."
    return f"{said}\n`trackrec {command} --help` shows the keys that matter."
