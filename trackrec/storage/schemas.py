"""The schemas of the tables through which stages exchange data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl
import pyarrow as pa

from trackrec.runtime.errors import TrackRecError

_str, _f32, _i64, _i32, _i8 = pa.string(), pa.float32(), pa.int64(), pa.int32(), pa.int8()
_strs, _f32s, _i32s = pa.list_(_str), pa.list_(_f32), pa.list_(_i32)


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind) for name, kind in columns.items()])


_DRAW = {"history_id": _str, "source": _str, "round": _i32, "draw": _i32}
SCHEMAS: dict[str, pa.Schema] = {
    # year is null where unknown; attributes are genres, categories, tags
    "items": _schema(item_id=_str, title=_str, attributes=_strs, year=_i32),
    "users": _schema(user_id=_str, attributes=_strs),
    # row is the position in the source file: it breaks ties of the timestamp (seconds, UTC)
    "interactions": _schema(user_id=_str, item_id=_str, rating=_f32, timestamp=_i64, row=_i64),
    # a rating in a list is null where the item was chosen without one
    "histories": _schema(history_id=_str, user_id=_str, item_ids=_strs, ratings=_f32s),
    # recent_*: the last ratings before the target, oldest first; split: train | valid | test; use: reward | tune | ""
    "samples": _schema(
        sample_id=_str,
        user_id=_str,
        item_id=_str,
        label=_i8,
        timestamp=_i64,
        history_id=_str,
        recent_items=_strs,
        recent_ratings=_f32s,
        split=_str,
        use=_str,
    ),
    "reccots": _schema(**_DRAW, text=_str, token_ids=_i32s, prompt_hash=_str, finish_reason=_str, seed=_i64),
    "scores": _schema(**_DRAW, sample_id=_str, validator=_str, p_yes=_f32, answer_mass=_f32, p_true=_f32),
    # chosen and rejected are draw numbers of (history_id, source, round); *_logps are reference sums over tokens
    "preferences": _schema(
        history_id=_str,
        source=_str,
        round=_i32,
        chosen=_i32,
        rejected=_i32s,
        chosen_reward=_f32,
        rejected_rewards=_f32s,
    ),
    "reference_logps": _schema(history_id=_str, round=_i32, chosen_logp=_f32, rejected_logps=_f32s),
    "embeddings": _schema(text_hash=_str, encoder=_str, vector=pa.list_(pa.float16())),
    "predictions": _schema(sample_id=_str, model=_str, arm=_str, seed=_i32, split=_str, p=_f32),
    "metrics": _schema(
        stage=_str,
        round=_i32,
        split=_str,
        arm=_str,
        slice=_str,
        seed=_i32,
        name=_str,
        value=pa.float64(),
        ci_low=pa.float64(),
        ci_high=pa.float64(),
        n=_i64,
    ),
    # what monitors saw after a stage; verdict: ok | few | warn | stop
    "monitors": _schema(
        stage=_str,
        round=_i32,
        monitor=_str,
        name=_str,
        value=pa.float64(),
        n=_i64,
        warn=pa.float64(),
        stop=pa.float64(),
        verdict=_str,
        text=_str,
    ),
}
# Optional columns, after the others and in this order. Files without them have the same bytes as before.
OPTIONAL: dict[str, pa.Schema] = {
    # the position at which the item was shown, from 1; null where unknown
    "interactions": _schema(position=_i32),
}
KEYS: dict[str, tuple[str, ...]] = {
    "items": ("item_id",),
    "users": ("user_id",),
    "interactions": ("user_id", "item_id", "timestamp", "row"),
    "histories": ("history_id",),
    "samples": ("sample_id",),
    "reccots": ("history_id", "source", "round", "draw"),
    "scores": ("history_id", "source", "round", "draw", "sample_id", "validator"),
    "preferences": ("history_id", "round"),
    "reference_logps": ("history_id", "round"),
    "embeddings": ("text_hash", "encoder"),
    "predictions": ("sample_id", "model", "arm", "seed"),
    "metrics": ("stage", "round", "split", "arm", "slice", "seed", "name"),
    "monitors": ("stage", "monitor", "name"),
}


class TableError(TrackRecError, ValueError):
    """A table is missing, incomplete, or doesn't match its schema.

    Args:
        problem: what is wrong, without a full stop where a remedy follows.
        remedy: what to do about it.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        self.problem = problem
        super().__init__(f"{problem}. {remedy}" if remedy else problem)


def schema_of(table: str, columns: Iterable[str] = ()) -> pa.Schema:
    """The schema of ``table``, with those of its optional columns that are among ``columns``."""
    present = set(columns)
    extra = [field for field in OPTIONAL.get(table, ()) if field.name in present]
    return pa.schema([*SCHEMAS[table], *extra])


def to_arrow(table: str, rows: pl.DataFrame | Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows as an Arrow table of exactly the schema of ``table``; a frame may have its optional columns as well.

    Raises:
        TableError: a column is missing or unknown, or a value doesn't fit its type.
    """
    schema = SCHEMAS[table]
    try:
        if isinstance(rows, pl.DataFrame):
            schema = schema_of(table, rows.columns)
            missing = [name for name in schema.names if name not in rows.columns]
            unknown = [name for name in rows.columns if name not in schema.names]
            if missing or unknown:
                raise TableError(f"table {table}: missing columns {missing}, unknown columns {unknown}")
            return rows.select(schema.names).to_arrow().cast(schema)
        records = [dict(row) for row in rows]
        for row in records:
            if row.keys() != set(schema.names):  # from_pylist makes nulls of missing keys and drops unknown ones
                missing = [name for name in schema.names if name not in row]
                unknown = [name for name in row if name not in schema.names]
                raise TableError(f"table {table}: missing columns {missing}, unknown columns {unknown}")
        return pa.Table.from_pylist(records, schema=schema)
    except pa.ArrowException as error:
        raise TableError(f"table {table}: {error}") from error
