"""Reads text files of fields between separators: CSV, TSV and the like. A row that can't be read without loss is bad.

polars reads the files. Text that polars would read with loss (a row with fewer or more fields than the header, a stray
quotation mark, blank lines, escaped characters, Latin-1) is read again with the slower `csv` module, which knows the
line of every row.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import polars as pl

from trackrec.interactions.source import DataError, bad_lines_error, refuse_utf16
from trackrec.interactions.sources.columns import ARGS, Columns
from trackrec.interactions.sources.text_format import TextFormat
from trackrec.interactions.sources.unpack import plain_path, temporary_file

_CHUNK_ROWS = 500_000
_BLOCK_BYTES = 1 << 22
KEPT_BAD_ROWS = 3
# Control characters that mean nothing to a reader of CSV; one that a file doesn't hold stands for a longer separator.
_STAND_INS = bytes(code for code in range(1, 0x20) if code not in b"\t\n\v\f\r")

Plan = Callable[[Path, Mapping[str, pl.DataType]], Columns]


class Advice(NamedTuple):
    """How errors say what to do.

    Attributes:
        key: The setting that names the file.
        bad_rows: What to do about bad rows.
        quote: What to do about a quotation mark that never closes.
    """

    key: str
    bad_rows: str = f"Correct or delete them, or set {ARGS}.bad_rows to drop."
    quote: str = f"Correct the line, or set {ARGS}.text.quote to null if quotation marks are part of the text."


class _Text(NamedTuple):
    """A text file: ``path`` names it in errors, ``plain`` holds its text, with fields between ``separator``."""

    path: Path
    plain: Path
    advice: Advice
    form: TextFormat
    separator: str
    encoding: str

    def shown(self, cells: list[str]) -> str:
        return self.form.separator.join(cells)


def read_delimited(path: Path, advice: Advice, form: TextFormat, plan: Plan, drop: bool) -> tuple[pl.DataFrame, int]:
    """See `files.read_rows`."""
    with _plain_text(path, advice, form) as text:
        names = _names(text)
        columns = plan(path, {name: pl.String() for name in names})
        if text.encoding != "latin-1" and not _is_delicate(text):
            frame = _read_fast(text, names, columns)
            if frame is not None and (drop or frame["good"].all()):
                good = frame.filter("good") if drop else frame
                return good.drop("good"), frame.height - good.height
        return _read_slowly(text, names, columns, drop)


@contextlib.contextmanager
def _plain_text(path: Path, advice: Advice, form: TextFormat) -> Iterator[_Text]:
    """The text of a file, unpacked, and with one character for the separator."""
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(plain_path(path, advice.key))
        with plain.open("rb") as file:
            refuse_utf16(path, file.read(4), advice.key)
        separator = form.separator
        if len(separator) > 1:
            separator = _stand_in(path, plain, advice)
            blocks = _replaced(plain, form, separator.encode())
            plain = stack.enter_context(temporary_file(path, advice.key, blocks))
        yield _Text(path, plain, advice, form, separator, "utf-8-sig" if _is_utf8(plain) else "latin-1")


def _stand_in(path: Path, plain: Path, advice: Advice) -> str:
    """A character that the file doesn't hold."""
    free = _STAND_INS
    for block in _blocks(plain):
        free = free.translate(None, delete=block)
    if not free:
        raise DataError(f"{advice.key}: {path} holds every control character. Is it a text file?")
    return chr(free[-1])


def _replaced(plain: Path, form: TextFormat, new: bytes) -> Iterator[bytes]:
    """The blocks of a file with ``new`` for its separators, from the left, but for what is escaped."""
    old = form.separator.encode()
    escaped = re.escape(form.escape.encode()) + rb"[\s\S]|" if form.escape else b""
    pattern = re.compile(escaped + b"(" + re.escape(old) + b")")
    rest = b""
    for block in _blocks(plain):
        data, parts, end = rest + block, [], 0
        for match in pattern.finditer(data):
            parts += [data[end : match.start()], new if match[1] else match[0]]
            end = match.end()
        # What may be the beginning of a separator, or an escape, waits for the next block.
        cut = max(end, len(data) - len(old) + 1)
        yield b"".join([*parts, data[end:cut]])
        rest = data[cut:]
    yield rest


def _read_fast(text: _Text, names: list[str], columns: Columns) -> pl.DataFrame | None:
    """The rows with ``good``, or None if polars may have lost something.

    polars fills short rows with nulls, and sees a row's surplus fields only if every column is read.
    """
    form = text.form
    rows = pl.scan_csv(
        text.plain,
        separator=text.separator,
        has_header=form.header,
        quote_char=form.quote,
        infer_schema=False,
        glob=False,
    )
    try:
        columns_read = rows.collect_schema().names()
        if len(columns_read) != len(names):
            return None
        rows = rows.rename(dict(zip(columns_read, names, strict=True)), strict=False)
        if text.separator != form.separator and form.quote:
            # What was replaced inside a quoted field was part of the text.
            rows = rows.with_columns(pl.all().str.replace_all(text.separator, form.separator, literal=True))
        short = pl.any_horizontal(pl.col(names[-1]).is_null(), pl.all_horizontal(pl.all().is_null()))
        frame = rows.select(**columns.exprs, good=columns.good, short=short).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError):  # OSError: the text looks like a compressed file
        return None
    return None if frame["short"].any() else frame.drop("short")


def _read_slowly(text: _Text, names: list[str], columns: Columns, drop: bool) -> tuple[pl.DataFrame, int]:
    frames: list[pl.DataFrame] = []
    shown: list[tuple[int, str]] = []
    n_bad = 0
    positions = [names.index(name) for name in columns.needs]
    for chunk, broken, n_broken in _chunks(text, len(names)):
        cells = {name: [row[at] for _, row in chunk] for name, at in zip(columns.needs, positions, strict=True)}
        raw = pl.DataFrame(cells, schema=dict.fromkeys(columns.needs, pl.String))
        frame = raw.select(**columns.exprs, good=columns.good)
        bad = (~frame["good"]).arg_true().to_list()
        n_bad += n_broken + len(bad)
        texts = [(chunk[at][0], text.shown(chunk[at][1])) for at in bad[:KEPT_BAD_ROWS]]
        shown = sorted([*shown, *broken[:KEPT_BAD_ROWS], *texts])[:KEPT_BAD_ROWS]
        frames.append(frame.filter("good").drop("good"))
    if n_bad and not drop:
        wants = columns.wants.replace("want ", f"want {len(names)} fields between {text.form.separator!r}; ", 1)
        raise bad_rows_error(text.path, text.advice, shown, n_bad, wants, "line")
    return pl.concat(frames), n_bad


_Row = tuple[int, list[str]]


def _chunks(text: _Text, width: int) -> Iterator[tuple[list[_Row], list[tuple[int, str]], int]]:
    """Rows of ``width`` fields with their lines, other rows as line and text, and how many lines these take."""
    rows: list[_Row] = []
    broken: list[tuple[int, str]] = []
    n_broken = 0
    for number, (line, lines, cells) in enumerate(_records(text)):
        if number == 0 and text.form.header:
            continue
        if cells is not None and len(cells) == width:
            rows.append((line, cells))
        else:
            broken.append((line, "a stray quotation mark" if cells is None else text.shown(cells)))
            n_broken += lines
        if len(rows) == _CHUNK_ROWS:
            yield rows, broken, n_broken
            rows, broken, n_broken = [], [], 0
    yield rows, broken, n_broken


def _records(text: _Text) -> Iterator[tuple[int, int, list[str] | None]]:
    """First line, number of lines and cells of each record that isn't blank; the cells are None after a stray quote."""
    form = text.form
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if form.quote else csv.QUOTE_NONE
    with text.plain.open(encoding=text.encoding, newline="") as file:
        reader = csv.reader(
            file,
            delimiter=text.separator,
            quotechar=form.quote,
            quoting=quoting,
            escapechar=form.escape,
            strict=True,
        )
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
                        f"{text.advice.key}: {text.path} line {line}: a quotation mark opens there and never closes. "
                        f"{text.advice.quote}"
                    ) from error
            if cells is not None and text.separator != form.separator:
                cells = [cell.replace(text.separator, form.separator) for cell in cells]
            if cells is None or len(cells) > 1 or (cells and cells[0].strip()):
                yield line, reader.line_num - line + 1, cells


def _names(text: _Text) -> list[str]:
    """The columns of a text file: its header, or the numbers from 1."""
    first = next(_records(text), None)
    if first is None or first[2] is None:
        problem = "is empty" if first is None else f"has a stray quotation mark in line {first[0]}"
        raise DataError(f"{text.advice.key}: {text.path} {problem}. Fetch or write it again.")
    if not text.form.header:
        return [str(number) for number in range(1, len(first[2]) + 1)]
    return header_names(first[2])


def header_names(cells: Iterable[str]) -> list[str]:
    """The columns that a header names. A name's repetitions get a number: "name (2)"."""
    names: list[str] = []
    for cell in map(str.strip, cells):
        repetitions = sum(name == cell or name.startswith(f"{cell} (") for name in names)
        names.append(f"{cell} ({repetitions + 1})" if repetitions else cell)
    return names


def bad_rows_error(
    path: Path, advice: Advice, shown: list[tuple[int, str]], total: int, wants: str, unit: str
) -> DataError:
    """The error for ``total`` bad rows, of which ``shown`` are the first: line and text."""
    bad = pl.DataFrame(shown, schema={"line": pl.Int64, "text": pl.String}, orient="row")
    return bad_lines_error(path, bad, wants, key=advice.key, unit=unit, total=total, remedy=advice.bad_rows)


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


def _is_delicate(text: _Text) -> bool:
    """Whether polars would read the text other than the csv module does.

    It knows no escapes, takes a carriage return alone for text, closes no field at a stray quotation mark, closes one
    that the file doesn't, and leaves out an empty last field at the very end.
    """
    signs = [rb"\r(?!\n)"]
    if text.form.escape:
        signs.append(re.escape(text.form.escape.encode()))
    if text.form.quote:
        quote, separator = (re.escape(sign.encode()) for sign in (text.form.quote, text.separator))
        inside = b"[^\r\n" + quote + separator + b"]"
        # One that neither opens nor closes a field, nor is doubled; and text after an empty field in quotes.
        signs.append(quote + b"(?<=" + inside + quote + b")(?=" + inside + b")")
        signs.append(quote + quote + b"(?<=[\r\n" + separator + b"]" + quote + quote + b")(?=" + inside + b")")
    pattern = re.compile(b"|".join(signs))
    rest, n_quotes = b"\n", 0
    for block in _blocks(text.plain):
        n_quotes += block.count(text.form.quote.encode()) if text.form.quote else 0
        data = rest + block
        # What follows a carriage return at the end is in the next block, which also sees the last bytes of this one.
        if pattern.search(data.removesuffix(b"\r")):
            return True
        rest = data[-5:]
    return n_quotes % 2 == 1 or rest[-1:] in (b"\r", text.separator.encode())


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for block in _blocks(path):
            decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True
