"""The base class of rating sources, the tables that they return, and text readers that keep line numbers for errors."""

from __future__ import annotations

import abc
import codecs
import difflib
import hashlib
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from trackrec.runtime.errors import TrackRecError

ROOT_KEY = "dataset.init_args.root"
LAST_SECOND = 1e11
"""Timestamps in seconds since 1970 are below this, the year 5138; larger numbers are milliseconds."""

_SHOWN_BAD_LINES = 3
_SHOWN_NAMES = 20
_SHOWN_CHARS = 40
_CONTROL = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], " ")


class DataError(TrackRecError, ValueError):
    """The ratings, or the settings that say how to read them, can't be used. The message names the key as typed."""


class Ratings(NamedTuple):
    """The first three tables of a run, in the schemas of `trackrec.storage.schemas`, and row counts.

    ``interactions`` is in file order and holds each (user, item) once; ``timestamp`` is in seconds, UTC. Every item_id
    and user_id in it has a row in ``items`` and ``users``. ``counts`` says how many rows were read and left out. A
    source that knows where items were shown adds the optional column ``position``.

    The last two tables are for datasets that publish splits or history lists; they refer to interactions by ``row``.
    With published splits ``interactions`` holds a (user, item) once per timestamp and split. ``splits``: row, split
    (train | valid | test). ``own_histories``: rows (one user's interactions that share the list), item_ids (oldest
    first, each in ``items``), ratings (null: chosen without a rating); the history of a row in no list is empty.
    """

    items: pl.DataFrame
    users: pl.DataFrame
    interactions: pl.DataFrame
    counts: dict[str, int]
    splits: pl.DataFrame | None = None
    own_histories: pl.DataFrame | None = None


class RatingSource(abc.ABC):
    """A dataset. Constructors only check their arguments; `read` and `content_key` open the files."""

    threshold: float
    """A rating above this is a like, unless ``samples.threshold`` is set. In the unit of the ratings."""

    @abc.abstractmethod
    def read(self) -> Ratings:
        """Read everything.

        Raises:
            DataError: files are missing or hold lines that can't be read.
        """

    @abc.abstractmethod
    def content_key(self) -> dict[str, str]:
        """The sha256 of every file that `read` would read, by its name under the source's folder.

        Raises:
            DataError: files are missing; the message is that of `read`.
        """

    def ceilings(self, samples: pl.DataFrame, histories: pl.DataFrame, threshold: float) -> dict[str, float]:
        """Upper bounds of AUC and ACC on labelled rows, from a source that knows the probability behind each label.

        Args:
            samples: rows of the samples table.
            histories: the histories table.
            threshold: a rating above it is a like.

        Returns:
            ``bayes_auc`` and ``bayes_acc`` of predicting the true probabilities, ``told_auc`` and ``told_acc`` of the
            best prediction from the histories; empty for real ratings.
        """
        return {}


def choice_error(key: str, value: object, allowed: Sequence[str]) -> DataError:
    """The error for a value that is not in ``allowed``; it suggests the nearest allowed one."""
    near = difflib.get_close_matches(str(value), allowed, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return DataError(f"{key} must be one of {', '.join(map(repr, allowed))}, got {value!r}.{hint}")


def file_hashes(root: Path, paths: Iterable[Path]) -> dict[str, str]:
    """Relative name -> sha256 of the bytes, sorted by name."""
    hashes = {}
    for path in sorted(paths):
        with path.open("rb") as file:
            hashes[path.relative_to(root).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def bad_lines_error(
    path: Path,
    bad: pl.DataFrame,
    reason: str,
    *,
    key: str = ROOT_KEY,
    unit: str = "line",
    total: int | None = None,
    remedy: str = "Correct or delete them, or fetch the file again.",
) -> DataError:
    """The error that lists the first of the ``bad`` rows (columns ``line``, ``text``) of a file.

    ``total``: their number, if ``bad`` holds only the first of them.
    """
    total = bad.height if total is None else total
    shown = [f"{unit} {line}: {text[:80]!r}" for line, text in bad.head(_SHOWN_BAD_LINES).select("line", "text").rows()]
    more = f"; and {total - len(shown)} more" if total > len(shown) else ""
    return DataError(f"{key}: {path} has {total} bad {unit}(s), {reason}: {'; '.join(shown)}{more}. {remedy}")


def read_fields(path: Path, separator: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Split a text file into string columns; ``line`` (from 1) and ``text`` keep the line of each row.

    No quoting: a quotation mark is part of a title. Bytes that aren't UTF-8 are read as Latin-1, which is what
    GroupLens writes. Blank lines are skipped. Without ``columns`` the first line is a header of ``name:type`` cells.

    Raises:
        DataError: the file is empty or UTF-16, a line has the wrong number of fields, or the header repeats a name.
    """
    data = path.read_bytes()
    refuse_utf16(path, data)
    try:
        decoded = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        decoded = data.decode("latin-1")
    lines = decoded.split("\n")  # not splitlines: it also cuts at Latin-1 control characters
    frame = pl.DataFrame({"text": lines}, schema={"text": pl.String}).with_row_index("line", offset=1)
    frame = frame.with_columns(pl.col("text").str.strip_suffix("\r"))
    frame = frame.filter(pl.col("text").str.strip_chars() != "")
    if frame.is_empty():
        raise DataError(f"{ROOT_KEY}: {path} is empty. Fetch the file again.")
    if columns is None:
        columns = [cell.split(":")[0].strip() for cell in frame["text"][0].split(separator)]
        if len({*columns, "line", "text"}) < len(columns) + 2:
            raise DataError(
                f"{ROOT_KEY}: the header of {path} repeats a column or has one named 'line' or 'text': "
                f"{shown(columns)}. Rename them there."
            )
        frame = frame.slice(1)
    fields = pl.col("text").str.split(separator)
    bad = frame.filter(fields.list.len() != len(columns))
    if not bad.is_empty():
        raise bad_lines_error(path, bad, f"not the {len(columns)} fields expected between {separator!r}")
    return frame.with_columns(fields.alias("fields")).select(
        "line", "text", *[pl.col("fields").list.get(i).alias(name) for i, name in enumerate(columns)]
    )


def shown(names: Sequence[str]) -> str:
    """Names from a file, shortened for an error message."""
    short = [name if len(name) <= _SHOWN_CHARS else f"{name[:_SHOWN_CHARS]}..." for name in names[:_SHOWN_NAMES]]
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return f"{short}{more}"


def need_columns(path: Path, frame: pl.DataFrame, names: Sequence[str]) -> None:
    """Check that a file with a header has the columns that will be read.

    Raises:
        DataError: some are missing.
    """
    missing = [name for name in names if name not in frame.columns]
    if missing:
        have = [name for name in frame.columns if name not in ("line", "text")]
        raise DataError(
            f"{ROOT_KEY}: {path} lacks the column(s) {missing}; its header has {shown(have)}. Rename them there."
        )


def parse_ratings(path: Path, frame: pl.DataFrame) -> pl.DataFrame:
    """The ``interactions`` table from string columns user_id, item_id, rating, timestamp, in file order.

    Timestamps keep the file's values, cut to whole seconds.

    Raises:
        DataError: there is no rating, an id is empty, or a rating or timestamp is not a number in range.
    """
    rating = pl.col("rating").str.strip_chars().cast(pl.Float32, strict=False)
    seconds = pl.col("timestamp").str.strip_chars().cast(pl.Float64, strict=False)
    good = rating.is_finite() & (seconds.abs() < LAST_SECOND) & (pl.col("user_id") != "") & (pl.col("item_id") != "")
    bad = frame.filter(~good.fill_null(False))
    if not bad.is_empty():
        raise bad_lines_error(path, bad, "want a user, an item, a number as rating and seconds as timestamp")
    if frame.is_empty():
        raise DataError(f"{ROOT_KEY}: {path} holds no ratings. Fetch the file again.")
    return frame.with_row_index("row").select(
        "user_id", "item_id", rating, seconds.cast(pl.Int64), pl.col("row").cast(pl.Int64)
    )


def need_unique(path: Path, frame: pl.DataFrame, key: str) -> None:
    """Check the ids of an item or user file.

    Raises:
        DataError: an id is empty or occurs twice.
    """
    bad = frame.filter(~pl.col(key).is_first_distinct() | (pl.col(key) == ""))
    if not bad.is_empty():
        raise bad_lines_error(path, bad, f"{key} is empty or was used by an earlier line")


def refuse_utf16(path: Path, start: bytes, key: str = ROOT_KEY) -> None:
    """Check the first bytes of a text file.

    Raises:
        DataError: they are the byte order mark of UTF-16, which spreadsheets write.
    """
    if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise DataError(f"{key}: {path} is UTF-16 text. Save it as UTF-8.")


def clean_text(text: str) -> str:
    """HTML entities as characters, white space folded, no other control characters."""
    return " ".join(html.unescape(text).translate(_CONTROL).split())
