"""The base class of rating sources, the tables that they return, and what their readers share."""

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


def shown(names: Sequence[str]) -> str:
    """Names from a file, shortened for an error message."""
    short = [name if len(name) <= _SHOWN_CHARS else f"{name[:_SHOWN_CHARS]}..." for name in names[:_SHOWN_NAMES]]
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return f"{short}{more}"


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
