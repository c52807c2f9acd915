"""The tables through which stages meet: schemas, atomic writes, the manifest, checked reads.

A stage directory holds one folder per table (``<table>/part-00000.parquet`` ...), any other artifacts (adapters, logs),
and ``manifest.json``, which is written last. A directory without a manifest is not done.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from trackrec.error_text import reason

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
# Left out of the content hash: they tell how a run went, not what it made.
_NOT_CONTENT = (MANIFEST, "config.yaml", "logs", "checkpoints")

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

# Columns that a table may have, behind its others and in this order: files without them keep their bytes.
OPTIONAL: dict[str, pa.Schema] = {
    # where the item stood when it was shown, from 1; null where unknown
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


class TableError(ValueError):
    """A table is missing, incomplete, or not what its schema promises."""


class BrokenManifestError(TableError):
    """A manifest is no manifest: torn, edited, or something else."""


def stable_hash(*parts: object, digits: int = 16) -> str:
    """Hex digest of the parts' text, equal across processes and platforms (unlike ``hash``)."""
    joined = "\x1f".join(str(part) for part in parts)
    return hashlib.blake2b(joined.encode(), digest_size=32).hexdigest()[:digits]


def schema_of(table: str, columns: Iterable[str] = ()) -> pa.Schema:
    """The schema of ``table``, with those of its optional columns that are among ``columns``."""
    present = set(columns)
    extra = [field for field in OPTIONAL.get(table, ()) if field.name in present]
    return pa.schema([*SCHEMAS[table], *extra])


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name, then rename it: whole or absent, after a crash of the machine too.

    Raises:
        OSError: the disk is full, say; what stood there before still does, and no temporary file is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
        given = [dict(row) for row in rows]
        for row in given:
            if row.keys() != set(schema.names):  # from_pylist makes nulls of missing keys and drops unknown ones
                missing = [name for name in schema.names if name not in row]
                unknown = [name for name in row if name not in schema.names]
                raise TableError(f"table {table}: missing columns {missing}, unknown columns {unknown}")
        return pa.Table.from_pylist(given, schema=schema)
    except pa.ArrowException as error:
        raise TableError(f"table {table}: {error}") from error


def part_path(stage_dir: Path, table: str, part: int) -> Path:
    """Where part number ``part`` of a table lies."""
    return stage_dir / table / f"part-{part:05d}.parquet"


def write_part(
    stage_dir: Path, table: str, rows: pl.DataFrame | Iterable[Mapping[str, Any]], part: int = 0
) -> pa.Table:
    """Write one part of a table: to a temporary name first, then renamed, so that a part is whole or absent."""
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
    """A part that an earlier try wrote; None where it is missing, or was damaged since and is dropped."""
    path = part_path(stage_dir, table, part)
    if not path.exists():
        return None
    try:
        frame = pl.from_arrow(_read_part(path, table)[0])
    except TableError as error:
        log.warning("%s: it is made again", str(error).partition(" Delete it")[0].rstrip("."))
        path.unlink()
        return None
    assert isinstance(frame, pl.DataFrame)
    return frame


def _read_part(
    path: Path, table: str, schema: pa.Schema | None = None, columns: Sequence[str] | None = None
) -> tuple[pa.Table, pa.Schema]:
    """One part, and the schema that it has: ``schema``, or the table's with the optional columns that stand in it."""
    try:
        names = pq.read_schema(path).names
        part = pq.read_table(path, columns=None if columns is None else list(columns))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise TableError(
            f"table {table}: {path} can't be read ({reason(error)}). Delete it and run the stage."
        ) from error
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
        columns: read these alone; None reads all.
        check_keys: look for a key that repeats, which needs all columns.

    Raises:
        TableError: no part exists, a part is unreadable or has other columns, or (``check_keys``) a key repeats.
    """
    parts = sorted((stage_dir / table).glob("part-*.parquet"))
    if not parts:
        raise TableError(f"table {table}: no part under {stage_dir / table}. Run the stage that writes it.")
    arrow, schema = [], None
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
    """Whether a safetensors file is whole.

    Raises:
        TableError: it isn't.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise TableError(
            f"{path} can't be read ({error}). Delete the directory of its stage and run again: it is then made anew."
        ) from error


@dataclass
class Manifest:
    """What a finished stage says of itself. Written last: its presence is what "done" means.

    ``parts`` holds the bytes of every produced file, by its path.
    """

    stage: str
    fingerprint: str
    content_hash: str
    rows: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    threads: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    format_version: int = FORMAT_VERSION


def content_files(stage_dir: Path) -> list[Path]:
    """The files that make up what a stage produced, in a fixed order; none that `write_whole` was killed over."""
    files = [path for path in stage_dir.rglob("*") if path.is_file() and not path.match(".*.tmp")]
    return sorted(path for path in files if path.relative_to(stage_dir).parts[0] not in _NOT_CONTENT)


def content_hash(stage_dir: Path) -> str:
    """Hash of every produced file's name and bytes. Logs, checkpoints and the manifest don't count."""
    digest = hashlib.blake2b(digest_size=16)
    for path in content_files(stage_dir):
        digest.update(str(path.relative_to(stage_dir)).encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def file_sizes(stage_dir: Path) -> dict[str, int]:
    """Bytes of every produced file, by its path inside the stage."""
    return {path.relative_to(stage_dir).as_posix(): path.stat().st_size for path in content_files(stage_dir)}


def damage(stage_dir: Path, manifest: Manifest) -> str:
    """What is missing or has another length than when the stage was done; empty where all is well.

    It looks at names and lengths alone, which costs nothing; `content_hash` sees the rest.
    """
    found = file_sizes(stage_dir)
    for name, size in sorted(manifest.parts.items()):
        if name not in found:
            return f"{name} is missing"
        if found[name] != size:
            return f"{name} has {found[name]:,} bytes instead of {size:,}"
    return ""


def write_manifest(stage_dir: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` atomically; call it after everything else in the directory is whole."""
    write_whole(stage_dir / MANIFEST, json.dumps(asdict(manifest), indent=1, sort_keys=True) + "\n")


def read_manifest(stage_dir: Path) -> Manifest | None:
    """The manifest of a finished stage, or None where the stage isn't done.

    Raises:
        BrokenManifestError: it can't be read.
        TableError: it was written by another format version.
    """
    path = stage_dir / MANIFEST
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text())
        version = values.pop("format_version")
        manifest = Manifest(**values) if version == FORMAT_VERSION else None
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise _broken(path, error) from error
    if manifest is None:
        raise TableError(
            f"{path}: format_version {version}, this trackrec reads {FORMAT_VERSION}. Use another run_dir, or delete "
            f"{stage_dir}: the stage is then made again."
        )
    for one in fields(Manifest):
        value, kind = getattr(manifest, one.name), _KINDS[str(one.type).partition("[")[0]]
        if not isinstance(value, kind):
            raise _broken(path, f"{one.name} is {value!r}")
    return manifest


_KINDS: dict[str, Any] = {"str": str, "int": int, "float": (int, float), "dict": dict}


def _broken(path: Path, why: object) -> BrokenManifestError:
    return BrokenManifestError(f"{path} can't be read ({why}). Delete {path.parent} and run again.")
