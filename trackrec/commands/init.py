"""``trackrec init``: looks at files of ratings and writes a configuration that runs on them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console

from trackrec.commands.call import Call
from trackrec.commands.init_text import config_text, shown_lines
from trackrec.interactions import (
    AmazonBook,
    ItemColumns,
    MovieLens,
    RatingColumns,
    Ratings,
    RatingSource,
    Table,
    TextFormat,
    UserColumns,
)
from trackrec.interactions.guess.choices import Candidate
from trackrec.interactions.guess.draft import Draft, make_draft
from trackrec.interactions.source import DataError
from trackrec.interactions.sources.columns import ARGS
from trackrec.runtime.errors import SettingError
from trackrec.runtime.terminal_text import printable
from trackrec.storage.atomic import write_atomic

_KEYS = ("ratings", "items", "users")
# Larger files are only looked at: the run reads them.
_MOST_READ_BYTES = 32 << 20
_GROUPS = {"columns": RatingColumns, "item_columns": ItemColumns, "user_columns": UserColumns, "text": TextFormat}
_PUBLISHED: dict[str, Callable[..., RatingSource]] = {"MovieLens": MovieLens, "AmazonBook": AmazonBook}
_NEXT = """Next:
  trackrec data --config {0}   # what the run makes of these ratings
  trackrec fit --config {0} --stages data,ctr --ctr.arms [none]   # ratings alone; needs no language model
  trackrec fit --config {0}   # the whole loop"""


def add_arguments(parser: ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("--ratings", type=str, required=True, help="The log: a file, a folder of Parquet, or a glob.")
    parser.add_argument("--items", type=str | None, default=None, help="A file that tells of items: titles, kinds.")
    parser.add_argument("--users", type=str | None, default=None, help="A file that tells of users.")
    parser.add_argument("--output", type=Path, default=Path("my.yaml"), help="The configuration to write.")
    parser.add_argument("--yes", action="store_true", help="Take the best guesses and ask nothing.")
    parser.add_argument("--force", action="store_true", help="Replace the file --output.")


def run(call: Call) -> None:
    """Write the configuration; print what was seen and written, and the next command.

    Raises:
        DataError: a file can't be read, or its columns don't tell what they hold.
        SettingError: ``--output`` is there already.
    """
    output = Path(call.own["output"]).expanduser()
    if output.is_dir():
        raise SettingError(f"--output: {str(output)!r} is a folder. Name the file to write.")
    if output.exists() and not call.own["force"]:
        raise SettingError(f"--output: {str(output)!r} is there already. Add --force to replace it, or name another.")
    places = {key: str(Path(call.own[key]).expanduser()) for key in _KEYS if call.own.get(key)}
    chooser = Chooser(call.console, ask=not call.own["yes"] and sys.stdin.isatty() and call.console.is_terminal)
    try:
        draft = make_draft(places, chooser)
    except DataError as error:
        raise DataError(_as_typed(str(error))) from error
    ratings, trouble = read_whole(draft)
    users = ratings.users.height if ratings is not None else None
    run_dir = Path("runs") / output.stem
    write_atomic(output, config_text(draft, run_dir, list(places.values()), users))
    _show(call, draft, chooser.taken, ratings)
    if trouble:
        raise DataError(f"{trouble}\n{output} is written. Correct it there, then: trackrec data --config {output}")
    call.say(f"Wrote {output}, a configuration for a small language model on a CPU.")
    call.console.print(printable(_NEXT.format(output)), markup=False)


class Chooser:
    """Takes the best of close guesses, or asks for it on the terminal.

    Args:
        console: where questions are asked.
        ask: whether to ask.

    Attributes:
        taken: what was decided without asking, in sentences.
    """

    def __init__(self, console: Console, ask: bool) -> None:
        self.console, self.ask = console, ask
        self.taken: list[str] = []

    def __call__(self, question: str, close: Sequence[Candidate]) -> Candidate:
        """See `trackrec.interactions.guess.choices.Choose`."""
        names = [printable(_name(each), keep="") for each in close]
        if not self.ask:
            self.taken.append(f"{question} {names[0]}; {' or '.join(names[1:])} would fit too.")
            return close[0]
        self.console.print(question, markup=False)
        for number, (name, each) in enumerate(zip(names, close, strict=True), 1):
            self.console.print(f"  {number}  {name}   {printable(each.why, keep='')}", markup=False)
        while True:
            try:
                answer = self.console.input(f"1 to {len(close)}, or Enter for 1: ", markup=False).strip() or "1"
            except EOFError:
                answer = "1"
            if answer in names:
                return close[names.index(answer)]
            if answer.isdecimal() and 1 <= int(answer) <= len(close):
                return close[int(answer) - 1]
            self.console.print(f"{printable(answer, keep='')!r} is none of them.", markup=False)


def read_whole(draft: Draft) -> tuple[Ratings | None, str]:
    """What the source reads with a draft, and what is wrong with that, if anything is.

    Bad rows are dropped where nothing else helps. None where the files are large.
    """
    folder = Path(draft.args.get("root", ""))
    paths = [path for look in draft.looks.values() for path in look.paths] or [*folder.glob("*.*")]
    if sum(path.stat().st_size for path in paths) > _MOST_READ_BYTES:
        return None, ""
    try:
        if draft.source != "Table":
            return _PUBLISHED[draft.source](**{**draft.args, "root": folder}).read(), ""
        return table_of(draft.args).read(), ""
    except DataError as error:
        if draft.source != "Table":
            return None, str(error)
        first = error
    try:
        ratings = table_of({**draft.args, "bad_rows": "drop"}).read()
    except DataError:
        return None, str(first)
    draft.args["bad_rows"] = "drop"
    bad = sum(count for key, count in ratings.counts.items() if key.startswith("bad_"))
    draft.why["args.bad_rows"] = f"{bad:,} rows can't be read and are left out"
    return ratings, ""


def table_of(args: Mapping[str, Any]) -> Table:
    """The source with these ``init_args``."""
    groups = {key: kind(**args[key]) for key, kind in _GROUPS.items() if key in args}
    return Table(**{**args, **groups})


def _show(call: Call, draft: Draft, taken: Sequence[str], ratings: Ratings | None) -> None:
    """One screen: what was guessed and why, what was taken without asking, and what reading the files gave."""
    width = max(call.console.width, 80) if call.console.is_terminal else 120
    for key, value, why in shown_lines(draft):
        call.say(f"{key:<24} {value:<22}  {why}"[:width].rstrip())
    for line in taken:
        call.say(f"Not asked: {line}")
    if ratings is not None:
        counts = ratings.counts
        liked = float((ratings.interactions["rating"] > draft.threshold).mean() or 0)  # type: ignore[arg-type]
        call.say(
            f"That reads {counts['ratings']:,} ratings of {counts['users']:,} users and {counts['items']:,} items; "
            f"{liked:.0%} of the ratings are likes."
        )


def _name(candidate: Candidate) -> str:
    value = candidate.value[1] if isinstance(candidate.value, tuple) else candidate.value
    return f"{value:g}" if isinstance(value, float) else str(value)


def _as_typed(text: str) -> str:
    """The error of a reader, which calls a file by its key in a configuration, with the flag that named it."""
    for key in _KEYS:
        text = text.replace(f"{ARGS}.{key}:", f"--{key}:")
    return text
