"""Reads and writes the Parquet parts of a table, checked against its schema.

A stage directory holds one folder per table: ``<table>/part-00000.parquet`` and so on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from trackrec.runtime.errors import reason
from trackrec.storage.schemas import KEYS, TableError, schema_of, to_arrow

if TYPE_CHECKING:
    from datasets import Dataset


log = logging.getLogger(__name__)


def part_path(stage_dir: Path, table: str, part: int) -> Path:
    """The path of part number ``part`` of a table."""
    return stage_dir / table / f"part-{part:05d}.parquet"


def write_part(
    stage_dir: Path, table: str, rows: pl.DataFrame | Iterable[Mapping[str, Any]], part: int = 0
) -> pa.Table:
    """Write one part of a table: to a temporary name first, then renamed, so that a part is never incomplete."""
    arrow = to_arrow(table, rows)
    path = part_path(stage_dir, table, part)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        pq.write_table(arrow, temporary, compression="zstd")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return arrow


def standing_part(stage_dir: Path, table: str, part: int) -> pl.DataFrame | None:
    """A part that an earlier run wrote; None if it is missing, or damaged, which deletes it."""
    path = part_path(stage_dir, table, part)
    if not path.exists():
        return None
    try:
        frame = pl.from_arrow(_read_part(path, table)[0])
    except TableError as error:
        log.warning("%s: it is made again", error.problem)
        path.unlink()
        return None
    assert isinstance(frame, pl.DataFrame)
    return frame


def _read_part(
    path: Path, table: str, schema: pa.Schema | None = None, columns: Sequence[str] | None = None
) -> tuple[pa.Table, pa.Schema]:
    """One part, and its schema: ``schema``, or the table's with those optional columns that the part has."""
    try:
        names = pq.read_schema(path).names
        part = pq.read_table(path, columns=None if columns is None else list(columns))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        problem = f"table {table}: {path} can't be read ({reason(error)})"
        raise TableError(problem, "Delete it and run the stage.") from error
    schema = schema or schema_of(table, names)
    if names != schema.names:
        raise TableError(f"table {table}: {path} has columns {names}, want {schema.names}")
    try:
        return part.cast(pa.schema([schema.field(name) for name in part.schema.names])), schema
    except pa.ArrowException as error:
        raise TableError(f"table {table}: {path} has other types ({error})") from error


def read_table(
    stage_dir: Path, table: str, *, columns: Sequence[str] | None = None, check_keys: bool = False
) -> pl.DataFrame:
    """All parts of a table, in part order, checked against the schema.

    Args:
        stage_dir: the stage that wrote it.
        table: its name.
        columns: read only these; None reads all.
        check_keys: look for a key that repeats, which needs all columns.

    Raises:
        TableError: no part exists, a part is unreadable or has other columns, or (``check_keys``) a key repeats.
    """
    parts = sorted((stage_dir / table).glob("part-*.parquet"))
    if not parts:
        raise TableError(f"table {table}: no part under {stage_dir / table}. Run the stage that writes it.")
    arrow = []
    schema = None
    for path in parts:
        part, schema = _read_part(path, table, schema, columns)
        arrow.append(part)
    frame = pl.from_arrow(pa.concat_tables(arrow))
    assert isinstance(frame, pl.DataFrame)
    if check_keys and frame.select(KEYS[table]).is_duplicated().any():
        raise TableError(f"table {table}: the key {KEYS[table]} repeats in {stage_dir}")
    return frame


def read_dataset(stage_dir: Path, table: str) -> Dataset:
    """A table as an in-memory `datasets.Dataset`, for the data modules of the language-model trainings."""
    from datasets import Dataset

    return Dataset(to_arrow(table, read_table(stage_dir, table)))


def check_weights(path: Path) -> None:
    """Check that a safetensors file is complete.

    Raises:
        TableError: it can't be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise TableError(
            f"{path} can't be read ({error}). Delete the directory of its stage and run again: it is then made again."
        ) from error
