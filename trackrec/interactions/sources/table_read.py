"""Reads the files of a `Table`, and keeps what was found beside their rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

import polars as pl

from trackrec.interactions.ids import LOST_DIGITS
from trackrec.interactions.source import DataError, shown
from trackrec.interactions.sources.cells import UNREAD, record_fields
from trackrec.interactions.sources.columns import ARGS, COUNT, LOST, Columns
from trackrec.interactions.sources.files import read_rows
from trackrec.interactions.sources.text_format import TextFormat

Plan = Callable[[Path, Mapping[str, pl.DataType], bool], Columns]
_SHOWN_CELL = 80


@dataclass
class Findings:
    """What was found in the files.

    Attributes:
        counts: of values that were normalised, taken as unknown or dropped; those above zero.
        notices: sentences for the person who wrote the settings.
        separated: columns whose cells are text that was split.
    """

    counts: Counter[str] = field(default_factory=Counter)
    notices: list[str] = field(default_factory=list)
    separated: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Reading:
    """How files are read: their format, whether bad rows and fields are dropped, and up to which share."""

    form: TextFormat
    drop: bool
    max_bad: float

    def read(self, paths: Iterable[Path], key: str, plan: Plan, found: Findings, attributes: list[str]) -> pl.DataFrame:
        """The good rows of files of one kind.

        Args:
            paths: The files.
            key: ``ratings``, ``items`` or ``users``.
            plan: From a file, its columns and whether bad fields are dropped, to what is read.
            found: Takes the counts; bad rows as ``bad_rows``, ``bad_item_rows`` or ``bad_user_rows``.
            attributes: The columns of ``item_columns.attributes``.

        Raises:
            DataError: see `read_rows`; or more than ``max_bad`` of a file's rows or fields are bad, ids have lost
                digits, or cells that are written like lists can't be read.
        """
        name = {"ratings": "bad_rows", "items": "bad_item_rows", "users": "bad_user_rows"}[key.partition(".")[0]]
        frames = []

        def columns_of(path: Path, schema: Mapping[str, pl.DataType]) -> Columns:
            columns = plan(path, schema, self.drop)
            found.separated |= columns.separated
            return columns

        for path in paths:
            frame, n_bad = read_rows(path, key, self.form, columns_of, self.drop)
            bad = Counter({name: n_bad}) + _counts(frame, COUNT)
            for index, attribute in enumerate(attributes):
                if (column := f"attributes_{index}") in frame.columns:
                    frame, bad["bad_attributes"] = self._lists(frame, column, attribute, path, bad["bad_attributes"])
            total = frame.height + n_bad
            worst, n_worst = max(
                ((what, n) for what, n in bad.items() if what.startswith("bad_")), key=itemgetter(1), default=("", 0)
            )
            if n_worst > self.max_bad * total:
                raise self._too_many(path, key, plan, worst, n_worst, total)
            found.counts.update(bad)
            frames.append(without_findings(frame, path))
        return pl.concat(frames)

    def _lists(self, frame: pl.DataFrame, column: str, name: str, path: Path, n_bad: int) -> tuple[pl.DataFrame, int]:
        """The rows without the cells that can't be read, and how many these are.

        Raises:
            DataError: there are such cells, and bad fields aren't dropped.
        """
        unread = frame[column].str.starts_with(UNREAD)
        if not unread.any():
            return frame, n_bad
        if self.drop:
            emptied = frame.with_columns(pl.when(unread).then(pl.lit("")).otherwise(column).alias(column))
            return emptied, n_bad + int(unread.sum())
        cell = str(frame[column].filter(unread)[0]).removeprefix(UNREAD)
        fields = record_fields(cell)
        remedy = (
            f"They hold records with {shown(fields)}: name the field to take, such as {f'{name}.{fields[-1]}'!r}."
            if fields
            else f"Correct them, or set {ARGS}.bad_rows to drop, which takes them as unknown."
        )
        raise DataError(
            f"{ARGS}.item_columns.attributes: {unread.sum()} cells of {name!r} in {path} are written like a list but "
            f"can't be read as one, such as {cell[:_SHOWN_CELL]!r}. {remedy}"
        )

    def _too_many(self, path: Path, key: str, plan: Plan, what: str, n_bad: int, total: int) -> DataError:
        """The error for more bad rows or fields than ``max_bad``, with the first of them."""
        examples = ""
        try:
            read_rows(path, key, self.form, lambda p, schema: plan(p, schema, False), False)
        except DataError as error:
            examples = f" {str(error).partition(f'{ARGS}.{key}: ')[2].partition(' Correct or delete')[0]}"
        return DataError(
            f"{ARGS}.{key}: {n_bad} of {total} rows of {path} are bad ({what}), more than {ARGS}.max_bad: "
            f"{self.max_bad:g} allows.{examples} Correct the settings or the file, or raise max_bad."
        )


def _counts(frame: pl.DataFrame, prefix: str) -> Counter[str]:
    """Sums of the columns that count, by what they count."""
    counts: Counter[str] = Counter()
    for name in frame.columns:
        if name.startswith(prefix):
            counts[name.split()[1]] += int(frame[name].sum())
    return +counts


def without_findings(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    """The rows without the columns that count and mark.

    Raises:
        DataError: an id has lost digits.
    """
    for name in frame.columns:
        if name.startswith(LOST) and frame[name].any():
            _, column, key = name.split(" ", 2)
            lost = frame.filter(frame[name])[column]
            raise DataError(
                f"{ARGS}.{key}: {lost.len()} ids of {path}, such as {str(lost[0])[:_SHOWN_CELL]!r}, {LOST_DIGITS}, "
                "and read it as text wherever it passes."
            )
    return frame.drop(name for name in frame.columns if name.startswith((COUNT, LOST)))
