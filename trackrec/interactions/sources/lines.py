"""Reads files of one record per line, compressed or not, in blocks of whole lines: they may be larger than memory.

polars parses a block at once. If that fails or finds a bad record, the block is parsed again line by line, so that each
bad line gets its number and no good line is lost.
"""

from __future__ import annotations

import codecs
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import polars as pl
from polars.datatypes import DataTypeClass

from trackrec.interactions.source import ROOT_KEY, DataError, bad_lines_error, refuse_utf16
from trackrec.interactions.sources.columns import ARGS
from trackrec.interactions.sources.unpack import FETCH_AGAIN, open_plain

_BLOCK_BYTES = 1 << 25
_LONGEST_LINE_BYTES = 1 << 28
_KEPT_BAD_LINES = 3


class LineFormat(Protocol):
    """The format of a line."""

    def parse(self, block: bytes) -> pl.DataFrame:
        """One row per line; null where a value is missing.

        Raises:
            pl.exceptions.PolarsError, OSError: a line can't be read.
        """

    def mend(self, line: bytes) -> bytes | None:
        """The line rewritten so that `parse` always reads it; None if it doesn't have this format."""


@dataclass(frozen=True)
class JsonFormat:
    """A JSON object with the ``fields`` (String, Float64, List(String) or Struct); other fields are skipped."""

    fields: Mapping[str, pl.DataType]

    def parse(self, block: bytes) -> pl.DataFrame:
        """See `LineFormat`."""
        return pl.read_ndjson(io.BytesIO(block), schema=dict(self.fields))

    def mend(self, line: bytes) -> bytes | None:
        """See `LineFormat`."""
        try:
            record = json.loads(line.decode("utf-8"), parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return None
        if not isinstance(record, dict):
            return None
        return json.dumps({name: _fit(record.get(name), kind) for name, kind in self.fields.items()}).encode()


@dataclass(frozen=True)
class CsvFormat:
    """Text fields separated by commas, without quoting."""

    names: Sequence[str]

    def parse(self, block: bytes) -> pl.DataFrame:
        """See `LineFormat`."""
        # polars would unpack a block that begins like a compressed file; the header in front prevents that.
        header = ",".join(self.names).encode() + b"\n"
        return pl.read_csv(io.BytesIO(header + block), schema=dict.fromkeys(self.names, pl.String()), quote_char=None)

    def mend(self, line: bytes) -> bytes | None:
        """See `LineFormat`."""
        try:
            text = line.decode("utf-8").strip("\r\n")
        except UnicodeDecodeError:
            return None
        return text.encode() if text.count(",") == len(self.names) - 1 else None


class LinePlan(NamedTuple):
    """What to do with the parsed lines.

    Attributes:
        good: whether a parsed line can be used.
        wants: what a good line holds, for error messages.
        reduce: from a block's good lines to the rows that are kept.
    """

    good: pl.Expr
    wants: str
    reduce: Callable[[pl.DataFrame], pl.DataFrame]


def read_lines(path: Path, form: LineFormat, plan: LinePlan, drop: bool, skip: int = 0) -> tuple[pl.DataFrame, int]:
    """The rows of the good lines, and how many bad lines were dropped. Blank lines count as neither.

    Args:
        path: A text file, compressed or not, whatever its name.
        form: The format of a line.
        plan: Which lines are good, and what is kept of them.
        drop: Leave bad lines out.
        skip: Lines before the first record.

    Raises:
        DataError: the file is empty or can't be unpacked, or there are bad lines and ``drop`` is false.
    """
    frames: list[pl.DataFrame] = [plan.reduce(form.parse(b"").filter(plan.good))]
    bad_lines: list[tuple[int, str]] = []
    n_bad = 0
    empty = True
    for first, block in line_blocks(path, ROOT_KEY, _BLOCK_BYTES):
        empty = False
        if first == 1:
            first = 1 + skip
            block = b"\n".join(block.split(b"\n", skip)[skip:])
        frame, bad = _parse_block(block, first, form, plan.good)
        bad_lines = (bad_lines + bad)[:_KEPT_BAD_LINES]
        n_bad += len(bad)
        frames.append(plan.reduce(frame))
    if empty:
        raise DataError(f"{ROOT_KEY}: {path} is empty. {FETCH_AGAIN}")
    if n_bad and not drop:
        table = pl.DataFrame(bad_lines, schema={"line": pl.Int64, "text": pl.String}, orient="row")
        remedy = f"Fetch the file again, correct or delete them, or set {ARGS}.bad_rows to drop."
        raise bad_lines_error(path, table, plan.wants, total=n_bad, remedy=remedy)
    return pl.concat(frames), n_bad


class FirstLine(NamedTuple):
    """The first line of a file that isn't blank, and its number from 1."""

    number: int
    text: str


def first_line(path: Path) -> FirstLine:
    """The first line that isn't blank; bytes that aren't UTF-8 are replaced.

    Raises:
        DataError: there is none, or the file can't be unpacked.
    """
    for first, block in line_blocks(path, ROOT_KEY, 1 << 16):
        for number, line in enumerate(block.split(b"\n"), first):
            if line.strip():
                return FirstLine(number, line.decode("utf-8", "replace").strip())
    raise DataError(f"{ROOT_KEY}: {path} is empty. {FETCH_AGAIN}")


def _parse_block(
    block: bytes, first: int, form: LineFormat, good: pl.Expr
) -> tuple[pl.DataFrame, list[tuple[int, str]]]:
    """The good rows of a block that begins at line ``first``, and the number and text of its bad lines."""
    try:
        frame = form.parse(block)
        lines = block.count(b"\n") + (not block.endswith(b"\n"))
        if frame.height == lines and frame.select(good.fill_null(False).all()).item():
            return frame, []
    except (pl.exceptions.PolarsError, OSError):  # OSError: the bytes look like a compressed file
        pass
    numbered = [(number, line) for number, line in enumerate(block.split(b"\n"), first) if line.strip()]
    mended = [(number, line, form.mend(line)) for number, line in numbered]
    parsed = [(number, line) for number, line, fixed in mended if fixed is not None]
    frame = form.parse(b"\n".join(fixed for _, _, fixed in mended if fixed is not None))
    if frame.height != len(parsed):
        raise RuntimeError(f"{len(parsed)} mended lines became {frame.height} rows")
    mask = frame.select(good.fill_null(False).alias("good"))["good"]
    bad = [(number, line) for number, line, fixed in mended if fixed is None]
    bad += [parsed[index] for index in (~mask).arg_true()]
    return frame.filter(mask), [(number, line[:200].decode("utf-8", "replace")) for number, line in sorted(bad)]


def line_blocks(path: Path, key: str, size: int) -> Iterator[tuple[int, bytes]]:
    """Blocks of whole lines, of about ``size`` bytes, each with the number of its first line.

    Raises:
        DataError: the file is UTF-16 text, can't be unpacked, or has a line longer than 256 MiB. The message names the
            setting ``key``.
    """
    number = 1
    with open_plain(path, key) as file:
        start = file.read(len(codecs.BOM_UTF8))
        refuse_utf16(path, start, key)
        rest = start.removeprefix(codecs.BOM_UTF8)
        while chunk := file.read(size):
            cut = chunk.rfind(b"\n") + 1
            if not cut:
                rest += chunk
                if len(rest) > _LONGEST_LINE_BYTES:
                    raise DataError(
                        f"{key}: {path} line {number} is longer than {_LONGEST_LINE_BYTES >> 20} MiB. Is that a file "
                        "of one record a line?"
                    )
                continue
            block, rest = rest + chunk[:cut], chunk[cut:]
            yield number, block
            number += block.count(b"\n")
    if rest:
        yield number, rest


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is not valid JSON")


def _fit(value: Any, kind: pl.DataType | DataTypeClass) -> Any:
    """A JSON value in a form that polars reads into a field of this type; null if it doesn't fit."""
    if isinstance(kind, pl.Struct):
        known = value if isinstance(value, dict) else {}
        return {field.name: _fit(known.get(field.name), field.dtype) for field in kind.fields}
    if isinstance(kind, pl.List):
        return [_fit(entry, kind.inner) for entry in value] if isinstance(value, list) else []
    if kind == pl.Float64:
        try:
            number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
        except OverflowError:
            number = math.inf
        return number if math.isfinite(number) else None
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode("utf-8", "replace").decode()  # a lone surrogate can't be encoded
