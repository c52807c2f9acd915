"""Generations: the texts and vectors of a whole user base at one moment, and the pointer to the current one.

    gens/
      CURRENT                              the name of the current generation, one line
      gen-20261201T031500-1a2b3c4d/
        generation.json                    who wrote it, counts, the digest of every part
        full/000/part-000012.parquet       tier, thousands of the part's number, part

`trackrec refresh` writes a generation under another name and renames it when it is whole; it is never changed
afterwards. A user has one row in it, in a part that the hash of their id decides.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from trackrec.runtime.errors import TrackRecError, reason
from trackrec.storage.atomic import write_atomic

FORMAT = 1
CURRENT, INFO, PARTIAL = "CURRENT", "generation.json", ".partial"
PREFIX = "gen-"
_PART = re.compile(r"part-(\d{6})\.parquet$")
_PER_FOLDER = 1000
_COUNTS = b"trackrec.counts"

TEXTS = pa.schema(
    [
        ("user_id", pa.string()),
        ("text", pa.string()),
        ("vector", pa.list_(pa.float16())),  # null where nothing was encoded
        ("prompt_hash", pa.string()),
        ("n_ratings", pa.int64()),  # that were known of the user
        ("newest", pa.int64()),  # the time of the newest of them, seconds since 1970, UTC
        ("tier", pa.string()),  # whose settings wrote the text
        ("generator", pa.string()),  # the version of what wrote it
        ("encoder", pa.string()),
        ("made_at", pa.int64()),  # when the text was written, seconds since 1970, UTC
        ("status", pa.string()),  # written, or failed: a profile text stands in for the model's
    ]
)
"""Columns of a part, sorted by user_id."""


class GenerationError(TrackRecError, ValueError):
    """A generation is missing, incomplete, damaged or of another format."""


@dataclass(frozen=True)
class Generation:
    """A finished generation.

    Attributes:
        path: its folder.
        info: the content of ``generation.json``: format, name, made_at, parent, run, generators, encoder, dim, users,
            buckets, tiers, reasons, parts (path -> rows, bytes, sha256), digest.
    """

    path: Path
    info: dict[str, Any]

    @property
    def name(self) -> str:
        """Its name, which is also its folder's."""
        return self.path.name

    def parts(self) -> list[Path]:
        """The files of its parts, in a fixed order."""
        return [self.path / name for name in sorted(self.info["parts"])]

    def iter_frames(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """Its rows, part by part, so that memory stays flat; the columns are those of `TEXTS`.

        Raises:
            GenerationError: a part can't be read.
        """
        for path in self.parts():
            yield read_texts(path, columns)

    def of_bucket(self, bucket: int, buckets: int) -> pl.DataFrame:
        """The rows of the users whose ids fall into one of so many buckets, which may be another number than its own.

        Raises:
            GenerationError: a part can't be read.
        """
        own = int(self.info["buckets"])
        shared = min(own, buckets)
        numbers = [number for number in range(own) if number % shared == bucket % shared]
        names = [part_name(tier, number) for tier in self.info["tiers"] for number in numbers]
        frames = [read_texts(self.path / name) for name in names if name in self.info["parts"]]
        rows = pl.concat([empty_texts(), *frames])
        if own >= buckets:
            return rows
        return rows.filter(
            pl.Series([bucket_of(user, buckets) == bucket for user in rows["user_id"]], dtype=pl.Boolean)
        )

    def verify(self) -> None:
        """Compare every part with its digest.

        Raises:
            GenerationError: naming the part that is missing or was changed.
        """
        for name, facts in sorted(self.info["parts"].items()):
            path = self.path / name
            if not path.exists():
                raise GenerationError(f"{path} is missing. Use another generation, or run `trackrec refresh` again.")
            if sha256_of(path) != facts["sha256"]:
                raise GenerationError(
                    f"{path} isn't what was written (its sha256 differs). Use another generation, or run "
                    "`trackrec refresh --only all`."
                )


def bucket_of(user_id: str, buckets: int) -> int:
    """The bucket of a user: CRC-32 of the id in UTF-8, modulo ``buckets``, a power of two."""
    return zlib.crc32(user_id.encode()) & (buckets - 1)


def part_name(tier: str, bucket: int) -> str:
    """Path of a part within its generation: ``full/000/part-000012.parquet``."""
    return f"{tier}/{bucket // _PER_FOLDER:03d}/part-{bucket:06d}.parquet"


def empty_texts() -> pl.DataFrame:
    """No rows, in the columns of a part."""
    frame = pl.from_arrow(TEXTS.empty_table())
    assert isinstance(frame, pl.DataFrame)
    return frame


def write_texts(path: Path, rows: Iterable[Mapping[str, Any]], counts: Mapping[str, Any]) -> None:
    """Write one part; a crash leaves either the old file or the new one.

    Two processes may write the same part at once: each has its own temporary file, and both write the same bytes.

    Args:
        path: of the part.
        rows: of `TEXTS`; they are sorted by user_id here.
        counts: what to remember of its making, kept in the file itself; see `texts_counts`.

    Raises:
        GenerationError: a user repeats.
        OSError: for example, the disk is full.
    """
    ordered = sorted(rows, key=lambda row: str(row["user_id"]))
    if len({row["user_id"] for row in ordered}) != len(ordered):
        raise GenerationError(f"{path}: a user repeats")
    table = pa.Table.from_pylist([dict(row) for row in ordered], schema=TEXTS)
    table = table.replace_schema_metadata({_COUNTS: json.dumps(dict(counts), sort_keys=True).encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            pq.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_texts(path: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """The rows of one part.

    Raises:
        GenerationError: it can't be read, or has other columns.
    """
    try:
        table = pq.read_table(path, columns=None if columns is None else list(columns), partitioning=None)
        frame = pl.from_arrow(table.cast(pa.schema([TEXTS.field(name) for name in columns or TEXTS.names])))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise GenerationError(f"{path} can't be read as a part of a generation ({reason(error)})") from error
    assert isinstance(frame, pl.DataFrame)
    return frame


def texts_counts(path: Path) -> dict[str, Any] | None:
    """What `write_texts` remembered with a part; None where the part is missing or damaged."""
    try:
        found: dict[str, Any] = json.loads((pq.read_schema(path).metadata or {})[_COUNTS])
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return None
    return found


def vector_length(path: Path) -> int:
    """How many numbers the vectors of a part have; 0 where none is encoded."""
    lengths = read_texts(path, ["vector"])["vector"].list.len().drop_nulls()
    return int(lengths[0]) if len(lengths) else 0


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def finish_generation(folder: Path, info: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``generation.json`` of a folder that holds all its parts; returns its content.

    Args:
        folder: of the generation, which may still have another name.
        info: what `Generation.info` holds, without format, parts, users, dim and digest.
    """
    parts: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*/*/part-*.parquet")):
        if _PART.search(path.name):
            rows = pq.read_metadata(path).num_rows
            facts = {"rows": rows, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
            parts[path.relative_to(folder).as_posix()] = facts
    dim = next(filter(None, (vector_length(folder / name) for name in parts)), 0)
    digest = hashlib.sha256("".join(facts["sha256"] for facts in parts.values()).encode()).hexdigest()
    users = sum(facts["rows"] for facts in parts.values())
    whole = {"format": FORMAT, **info, "dim": dim, "users": users, "parts": parts, "digest": digest}
    write_atomic(folder / INFO, json.dumps(whole, indent=1) + "\n")
    return whole


def holds_user(generation: Generation, user_id: str) -> bool:
    """Whether a generation has a row of a user."""
    return bool(_parts_of(generation, user_id))


def _parts_of(generation: Generation, user_id: str) -> list[str]:
    """The parts, by name, that have a row of a user: at most one, in a generation as it was written."""
    bucket = bucket_of(user_id, int(generation.info["buckets"]))
    names = [part_name(tier, bucket) for tier in generation.info["tiers"]]
    there = [name for name in names if name in generation.info["parts"]]
    return [name for name in there if user_id in read_texts(generation.path / name, ["user_id"])["user_id"]]


def without_user(generation: Generation, user_id: str) -> Generation:
    """A finished copy of a generation that lacks a user; the other parts are the same files, by hard links.

    The copy is not made the current one, and the original stays: see `set_current`.
    """
    suffix = hashlib.sha256(f"{generation.name} {generation.info['digest']} {user_id}".encode()).hexdigest()[:8]
    final = generation.path.with_name(f"{generation.name}-{suffix}")
    work = generation.path.with_name(f".{final.name}.tmp")
    shutil.rmtree(work, ignore_errors=True)
    changed = set(_parts_of(generation, user_id))
    for name in generation.info["parts"]:
        source, target = generation.path / name, work / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name in changed:
            rows = read_texts(source).filter(pl.col("user_id") != user_id)
            write_texts(target, rows.iter_rows(named=True), texts_counts(source) or {})
        else:
            os.link(source, target)
    kept = {
        key: value for key, value in generation.info.items() if key not in ("format", "parts", "users", "dim", "digest")
    }
    finish_generation(work, {**kept, "name": final.name, "parent": None})
    shutil.rmtree(final, ignore_errors=True)
    work.rename(final)
    return open_generation(final)


def set_current(root: Path, name: str) -> None:
    """Make a finished generation the current one."""
    if not (root / name / INFO).is_file():
        raise GenerationError(f"{root / name} is no finished generation")
    write_atomic(root / CURRENT, f"{name}\n")


def current_name(root: Path) -> str | None:
    """The name in ``CURRENT``; None where there is none yet."""
    path = root / CURRENT
    return path.read_text().strip() if path.is_file() else None


def finished_generations(root: Path) -> list[Generation]:
    """The finished generations of a folder, oldest first."""
    found = [open_generation(path.parent) for path in root.glob(f"{PREFIX}*/{INFO}")]
    return sorted(found, key=lambda generation: (generation.info["made_at"], generation.name))


def open_generation(path: Path) -> Generation:
    """A finished generation.

    Args:
        path: its folder; or the folder that holds generations, or the file ``CURRENT`` in it, for the current one.

    Raises:
        GenerationError: there is none, it isn't finished, or its format is another.
    """
    folder = path.parent if path.name == CURRENT else path
    if not (folder / INFO).is_file():
        name = current_name(folder)
        if name is None:
            raise GenerationError(
                f"{path} holds no generation: neither {CURRENT} nor {INFO}. Write one with `trackrec refresh`."
            )
        folder = folder / name
    try:
        info = json.loads((folder / INFO).read_text())
        if info["format"] != FORMAT:
            raise GenerationError(f"{folder}: format {info['format']}, this trackrec reads {FORMAT}. Refresh again.")
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, GenerationError):
            raise
        raise GenerationError(f"{folder / INFO} can't be read ({reason(error)}). Use another generation.") from error
    return Generation(folder, info)
