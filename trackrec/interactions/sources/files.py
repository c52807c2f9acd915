"""Finds the files that a setting names, and reads the rows of Parquet and text files.

A row that can't be read without loss is bad: an error, or counted.
"""

from __future__ import annotations

import difflib
from pathlib import Path, PurePath

import polars as pl

from trackrec.interactions.source import DataError
from trackrec.interactions.sources.columns import ARGS
from trackrec.interactions.sources.delimited import KEPT_BAD_ROWS, Advice, Plan, bad_rows_error, read_delimited
from trackrec.interactions.sources.records import JSON_ENDINGS, read_records, record_kind
from trackrec.interactions.sources.text_format import TextFormat
from trackrec.interactions.sources.unpack import open_plain
from trackrec.runtime.errors import reason

_PARQUET = (".parquet", ".pq")


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

    Text files may be compressed.

    Raises:
        DataError: the file can't be read, a column is missing, or there are bad rows and ``drop`` is false.
    """
    advice = Advice(f"{ARGS}.{key}")
    if path.suffix.lower() in _PARQUET:
        return _read_parquet(path, advice, plan, drop)
    kind = form.format
    if kind == "auto":
        with open_plain(path, advice.key) as file:
            objects = PurePath(file.name).suffix.lower() in JSON_ENDINGS
        kind = record_kind(path, advice.key) if objects else "fields"
    if kind == "fields":
        return read_delimited(path, advice, form, plan, drop)
    return read_records(path, advice, kind, plan, drop)


def _read_parquet(path: Path, advice: Advice, plan: Plan, drop: bool) -> tuple[pl.DataFrame, int]:
    try:
        rows = pl.scan_parquet(path, glob=False)
        columns = plan(path, rows.collect_schema())
        chosen = rows.select(**columns.exprs, good=columns.good)
        frame = chosen.collect(engine="streaming")
        if not drop and not frame["good"].all():
            bad = rows.with_row_index("line", offset=1).filter(~columns.good).select("line", *columns.needs)
            shown = [(row[0], ", ".join(map(str, row[1:]))) for row in bad.head(KEPT_BAD_ROWS).collect().rows()]
            total = int((~frame["good"]).sum())
            raise bad_rows_error(path, advice, shown, total, columns.wants, "row")
    # polars panics on some broken pages.
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise DataError(
            f"{advice.key}: {path} can't be read as Parquet ({reason(error)}). Fetch or write it again."
        ) from error
    good = frame.filter("good")
    return good.drop("good"), frame.height - good.height
