"""Reads the requests of `trackrec predict` from every kind of file that `Table` reads, and writes the answers."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import polars as pl

from trackrec.interactions import DataError
from trackrec.interactions.source import shown
from trackrec.interactions.sources.columns import ARGS, Columns
from trackrec.interactions.sources.files import find_files, read_rows
from trackrec.interactions.sources.table_read import without_findings
from trackrec.interactions.sources.text_format import TextFormat
from trackrec.runtime.errors import reason
from trackrec.storage.atomic import write_atomic

IDS = ("user_id", "item_id")
_KEY = "requests"
_TYPED = (".parquet", ".pq", ".jsonl", ".ndjson", ".json")
_WHOLE = r"^-?(?:0|[1-9]\d{0,14})$"
_DECIMAL = r"^-?(?:0|[1-9]\d{0,7})(?:\.\d{1,7})?$"
_WRITERS: dict[str, Callable[[pl.DataFrame, io.BytesIO], object]] = {
    ".parquet": lambda frame, file: frame.write_parquet(file),
    ".csv": lambda frame, file: frame.write_csv(file),
    ".tsv": lambda frame, file: frame.write_csv(file, separator="\t"),
    ".jsonl": lambda frame, file: frame.write_ndjson(file),
}


class Requests(NamedTuple):
    """The requests in the order of their file.

    Attributes:
        rows: every column as it stands in the file; text files hold text, null where a cell is empty.
        ids: user_id and item_id as text, as the run's tables have them.
        as_text: whether ``rows`` came from a text file, which doesn't say what is a number.
    """

    rows: pl.DataFrame
    ids: pl.DataFrame
    as_text: bool


def read_requests(where: Path) -> Requests:
    """The requests of a file, or of all files that a glob or a folder of Parquet parts holds, sorted by name.

    Raises:
        DataError: there is none, it can't be read or holds no row, or a row lacks an id.
    """
    try:
        paths = find_files(_KEY, str(where))
        frames = [_read(path) for path in paths]
    except DataError as error:
        raise DataError(_in_words_of_the_option(str(error))) from error
    except pl.exceptions.SchemaError as error:
        raise DataError(
            f"--requests: a column of {where} holds single values in some lines and lists or objects in others "
            f"({reason(error)}). Write one kind in each column."
        ) from error
    names = [[name.removeprefix("=") for name in frame.columns[len(IDS) :]] for frame in frames]
    if other := next((place for place, columns in enumerate(names) if columns != names[0]), 0):
        raise DataError(
            f"--requests: {paths[other]} has the columns {shown(names[other])}, {paths[0]} has {shown(names[0])}. "
            "Name one of them, or give all the same columns."
        )
    try:
        read = pl.concat(frames)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"--requests: the files of {where} differ in their types ({reason(error)}).") from error
    if read.is_empty():
        raise DataError(f"--requests: {where} holds no row.")
    ids = read.select(pl.col("user").alias("user_id"), pl.col("item").alias("item_id"))
    as_text = not set(paths[0].suffixes) & set(_TYPED)
    rows = read.drop("user", "item").rename(lambda name: name.removeprefix("="))  # a name's own = stays
    if as_text:
        rows = rows.with_columns(pl.all().replace("", None))
    return Requests(rows, ids, as_text)


def _read(path: Path) -> pl.DataFrame:
    """The ids of a file as ``user`` and ``item``, and each of its columns under its name after a ``=``.

    The sign keeps a file's own columns apart from names that `read_rows` uses, such as ``good``.
    """
    separator = "\t" if ".tsv" in path.suffixes else ","
    return without_findings(read_rows(path, _KEY, TextFormat(separator), _columns, drop=False)[0], path)


def _columns(path: Path, schema: Mapping[str, pl.DataType]) -> Columns:
    if missing := [name for name in IDS if name not in schema]:
        raise DataError(f"--requests: {path} lacks {', '.join(missing)}; it has {shown(list(schema))}.")
    columns = Columns(path, schema)
    # The one rule for ids, that of the tables which the requests are looked up in.
    columns.id("user", _KEY, "user_id")
    columns.id("item", _KEY, "item_id")
    columns.needs.extend(name for name in schema if name not in IDS)
    columns.exprs.update({f"={name}": pl.col(name) for name in schema})
    return columns


def _in_words_of_the_option(message: str) -> str:
    """An error of the readers of ratings, without keys of the ratings."""
    message = re.sub(rf", or set {re.escape(ARGS)}[.\w]+ to [^.]*", "", message)
    return message.replace(f"{ARGS}.{_KEY}", "--requests")


def check_column(column: str, requests: Requests, where: Path) -> None:
    """Check the name of the output column.

    Raises:
        DataError: it is empty, or the requests have a column of this name.
    """
    if not column.strip():
        raise DataError("--column must name the column for the probabilities, got ''.")
    if column in requests.rows.columns:
        raise DataError(
            f"--column: {where} has a column {column!r} already, which would be lost. Give the probabilities another "
            f"name, such as --column {column}_predicted, or rename that column."
        )


def check_no_column(column: str, requests: Requests, where: Path) -> None:
    """Check that the requests lack a column that is written beside the probabilities.

    Raises:
        DataError: they have it.
    """
    if column in requests.rows.columns:
        raise DataError(f"--requests: {where} has a column {column!r} already, which would be lost. Rename it.")


def check_output(path: Path) -> None:
    """Check the name of the output file.

    Raises:
        DataError: its ending is unknown, or it is a folder.
    """
    if path.suffix not in _WRITERS:
        raise DataError(f"--output must end in {', '.join(_WRITERS)}, got {str(path)!r}.")
    if path.is_dir():
        raise DataError(f"--output must be a file, and {str(path)!r} is a folder.")


def write_answers(path: Path, requests: Requests, answers: Mapping[str, pl.Series]) -> None:
    """Write the requests with further columns: the whole file or nothing.

    Numbers of a text file are numbers in Parquet and JSON lines, unless something of their text would be lost (007).
    """
    rows = requests.rows
    if requests.as_text and path.suffix in _TYPED:
        rows = rows.with_columns(_typed(rows[name]) for name in rows.columns if name not in IDS)
    write_atomic(path, _content(path, rows.with_columns(**answers)))


def check_form(path: Path, requests: Requests) -> None:
    """Check that the output's kind of file can hold the columns of the requests, before hours of predicting.

    Raises:
        DataError: it can't, such as CSV lists.
    """
    for name in requests.rows.columns:
        try:
            _content(path, requests.rows.select(name).head(1))
        # polars panics on some types.
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            kind = requests.rows[name].dtype
            raise DataError(
                f"--output: a {path.suffix} file can't hold the requests' column {name!r}, which is {kind} "
                f"({reason(error)}). Use .parquet, or leave the column out."
            ) from error


def _content(path: Path, frame: pl.DataFrame) -> bytes:
    file = io.BytesIO()
    _WRITERS[path.suffix](frame, file)
    return file.getvalue()


def _typed(cells: pl.Series) -> pl.Series:
    """Text as numbers where all of it is plain numbers; 007, 1e5 and more digits than a number holds stay text."""
    text = cells.drop_nulls()
    if not len(text):
        return cells
    if text.str.contains(_WHOLE).all():
        return cells.cast(pl.Int64)
    return cells.cast(pl.Float64) if text.str.contains(_DECIMAL).all() else cells
