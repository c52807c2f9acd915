"""Reads the rows of CSV, TSV and Parquet files. A row that can't be read without loss is bad: an error, or counted.

polars reads the files. Text that polars would read with loss (a row with fewer or more fields than the header, a stray
quotation mark, blank lines, Latin-1) is read again with the slower `csv` module, which knows the line of every row.
"""

from __future__ import annotations

import codecs
import csv
import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from trackrec.interactions.source import DataError, bad_lines_error, refuse_utf16
from trackrec.interactions.sources.columns import ARGS, Columns
from trackrec.runtime.errors import reason

_PARQUET = (".parquet", ".pq")
_PACKED = (".gz", ".zip", ".zst", ".bz2", ".xz")
_CHUNK_ROWS = 500_000
_BLOCK_BYTES = 1 << 22
_KEPT_BAD_ROWS = 3

Plan = Callable[[Path, Mapping[str, pl.DataType]], Columns]


@dataclass(frozen=True)
class TextFormat:
    """How text files are written.

    Attributes:
        separator: Between the fields, one character; "\\t" is a tab.
        header: Whether a file begins with column names; without, columns are called by their number, from "1".
        quote: The quotation mark; null where quotation marks are part of the text.
        history_separator: Between the entries of ``columns.history`` and of ``columns.history_ratings``.
        attribute_separator: Between the attributes of an item's cell.
    """

    separator: str = ","
    header: bool = True
    quote: str | None = '"'
    history_separator: str = " "
    attribute_separator: str = "|"

    def __post_init__(self) -> None:
        object.__setattr__(self, "separator", self.separator.replace("\\t", "\t"))
        for key, text in {"separator": self.separator, "quote": self.quote}.items():
            if text is not None and (len(text) != 1 or not text.isascii()):
                raise DataError(f"{ARGS}.text.{key} must be one character, got {text!r}.")
        lists = {"history_separator": self.history_separator, "attribute_separator": self.attribute_separator}
        for key, text in lists.items():
            if not text:
                raise DataError(f"{ARGS}.text.{key} must not be empty.")


def find_files(key: str, where: str) -> list[Path]:
    """The files that a path, a folder of Parquet parts or a glob refers to, sorted by name.

    Raises:
        DataError: there are none.
    """
    path = Path(where)
    if path.is_dir():
        paths = sorted(part for part in path.glob("*") if part.suffix in _PARQUET and part.name[0] not in "._")
        problem = "no *.parquet part. Name a file, or a glob such as " + repr(f"{where}/*.csv")
    elif path.is_file():
        return [path]
    elif set(where) & set("*?["):
        anchor = Path(path.anchor)
        paths = sorted(match for match in anchor.glob(str(path.relative_to(anchor))) if match.is_file())
        problem = "no file that fits the glob"
    else:
        paths = []
        problem = "no such file"
        if path.parent.is_dir():
            near = difflib.get_close_matches(path.name, [other.name for other in path.parent.iterdir()], n=1)
            problem += f". Did you mean {str(path.with_name(near[0]))!r}?" if near else f" in {str(path.parent)!r}"
    if not paths:
        raise DataError(f"{ARGS}.{key}: {where!r}: {problem}.".replace("?.", "?"))
    return paths


def read_rows(path: Path, key: str, form: TextFormat, plan: Plan, drop: bool) -> tuple[pl.DataFrame, int]:
    """The good rows of a file, with the columns of the plan, and how many bad ones were dropped.

    Raises:
        DataError: the file can't be read, a column is missing, or there are bad rows and ``drop`` is false.
    """
    if path.suffix.lower() in _PACKED:
        raise DataError(f"{ARGS}.{key}: {path} is compressed. Unpack it first.")
    if path.suffix.lower() in _PARQUET:
        return _read_parquet(path, key, plan, drop)
    with path.open("rb") as file:
        start = file.read(4)
    refuse_utf16(path, start, f"{ARGS}.{key}")
    encoding = "utf-8-sig" if _is_utf8(path) else "latin-1"
    names = _names(path, key, form, encoding)
    columns = plan(path, {name: pl.String() for name in names})
    if encoding != "latin-1":
        frame = _read_fast(path, form, names, columns)
        if frame is not None and (drop or frame["good"].all()):
            good = frame.filter("good") if drop else frame
            return good.drop("good"), frame.height - good.height
    return _read_slowly(path, key, form, encoding, names, columns, drop)


def _read_parquet(path: Path, key: str, plan: Plan, drop: bool) -> tuple[pl.DataFrame, int]:
    try:
        rows = pl.scan_parquet(path, glob=False)
        columns = plan(path, rows.collect_schema())
        chosen = rows.select(**columns.exprs, good=columns.good)
        frame = chosen.collect(engine="streaming")
        if not drop and not frame["good"].all():
            bad = rows.with_row_index("line", offset=1).filter(~columns.good).select("line", *columns.needs)
            shown = [(row[0], ", ".join(map(str, row[1:]))) for row in bad.head(_KEPT_BAD_ROWS).collect().rows()]
            raise _bad_rows(path, key, shown, int((~frame["good"]).sum()), columns, "row")
    # polars panics on some broken pages.
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise DataError(
            f"{ARGS}.{key}: {path} can't be read as Parquet ({reason(error)}). Fetch or write it again."
        ) from error
    good = frame.filter("good")
    return good.drop("good"), frame.height - good.height


def _read_fast(path: Path, form: TextFormat, names: list[str], columns: Columns) -> pl.DataFrame | None:
    """The rows with ``good``, or None if polars may have lost something.

    polars fills short rows with nulls, and sees a row's surplus fields only if every column is read.
    """
    rows = pl.scan_csv(
        path, separator=form.separator, has_header=form.header, quote_char=form.quote, infer_schema=False, glob=False
    )
    try:
        columns_read = rows.collect_schema().names()
        if len(columns_read) != len(names):
            return None
        rows = rows.rename(dict(zip(columns_read, names, strict=True)), strict=False)
        short = pl.any_horizontal(pl.col(names[-1]).is_null(), pl.all_horizontal(pl.all().is_null()))
        frame = rows.select(**columns.exprs, good=columns.good, short=short).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError):  # OSError: the text looks like a compressed file
        return None
    return None if frame["short"].any() else frame.drop("short")


def _read_slowly(
    path: Path, key: str, form: TextFormat, encoding: str, names: list[str], columns: Columns, drop: bool
) -> tuple[pl.DataFrame, int]:
    frames: list[pl.DataFrame] = []
    shown: list[tuple[int, str]] = []
    n_bad = 0
    positions = [names.index(name) for name in columns.needs]
    for chunk, broken, n_broken in _chunks(path, key, form, encoding, len(names)):
        cells = {name: [row[at] for _, row in chunk] for name, at in zip(columns.needs, positions, strict=True)}
        raw = pl.DataFrame(cells, schema=dict.fromkeys(columns.needs, pl.String))
        frame = raw.select(**columns.exprs, good=columns.good)
        bad = (~frame["good"]).arg_true().to_list()
        n_bad += n_broken + len(bad)
        texts = [(chunk[at][0], form.separator.join(chunk[at][1])) for at in bad[:_KEPT_BAD_ROWS]]
        shown = sorted([*shown, *broken[:_KEPT_BAD_ROWS], *texts])[:_KEPT_BAD_ROWS]
        frames.append(frame.filter("good").drop("good"))
    if n_bad and not drop:
        raise _bad_rows(path, key, shown, n_bad, columns, "line", f"{len(names)} fields between {form.separator!r}; ")
    return pl.concat(frames), n_bad


_Row = tuple[int, list[str]]


def _chunks(
    path: Path, key: str, form: TextFormat, encoding: str, width: int
) -> Iterator[tuple[list[_Row], list[tuple[int, str]], int]]:
    """Rows of ``width`` fields with their lines, other rows as line and text, and how many lines these take."""
    rows: list[_Row] = []
    broken: list[tuple[int, str]] = []
    n_broken = 0
    for number, (line, lines, cells) in enumerate(_records(path, key, form, encoding)):
        if number == 0 and form.header:
            continue
        if cells is not None and len(cells) == width:
            rows.append((line, cells))
        else:
            broken.append((line, "a stray quotation mark" if cells is None else form.separator.join(cells)))
            n_broken += lines
        if len(rows) == _CHUNK_ROWS:
            yield rows, broken, n_broken
            rows, broken, n_broken = [], [], 0
    yield rows, broken, n_broken


def _records(path: Path, key: str, form: TextFormat, encoding: str) -> Iterator[tuple[int, int, list[str] | None]]:
    """First line, number of lines and cells of each record that isn't blank; the cells are None after a stray quote."""
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if form.quote else csv.QUOTE_NONE
    with path.open(encoding=encoding, newline="") as file:
        reader = csv.reader(file, delimiter=form.separator, quotechar=form.quote, quoting=quoting, strict=True)
        while True:
            line = reader.line_num + 1
            cells: list[str] | None = None
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "end of data" in str(error) or "limit" in str(error):
                    raise DataError(
                        f"{ARGS}.{key}: {path} line {line}: a quotation mark opens there and never closes. Correct the "
                        f"line, or set {ARGS}.text.quote to null if quotation marks are part of the text."
                    ) from error
            if cells is None or len(cells) > 1 or (cells and cells[0].strip()):
                yield line, reader.line_num - line + 1, cells


def _names(path: Path, key: str, form: TextFormat, encoding: str) -> list[str]:
    """The columns of a text file: its header, or the numbers from 1. A name's repetitions get a number: "name (2)"."""
    first = next(_records(path, key, form, encoding), None)
    if first is None or first[2] is None:
        problem = "is empty" if first is None else f"has a stray quotation mark in line {first[0]}"
        raise DataError(f"{ARGS}.{key}: {path} {problem}. Fetch or write it again.")
    if not form.header:
        return [str(number) for number in range(1, len(first[2]) + 1)]
    names: list[str] = []
    for cell in map(str.strip, first[2]):
        repetitions = sum(name == cell or name.startswith(f"{cell} (") for name in names)
        names.append(f"{cell} ({repetitions + 1})" if repetitions else cell)
    return names


def _bad_rows(
    path: Path, key: str, shown: list[tuple[int, str]], total: int, columns: Columns, unit: str, more: str = ""
) -> DataError:
    bad = pl.DataFrame(shown, schema={"line": pl.Int64, "text": pl.String}, orient="row")
    remedy = f"Correct or delete them, or set {ARGS}.bad_rows to drop."
    reason = columns.wants.replace("want ", f"want {more}", 1)
    return bad_lines_error(path, bad, reason, key=f"{ARGS}.{key}", unit=unit, total=total, remedy=remedy)


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                decoder.decode(block)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True
