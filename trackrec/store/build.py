"""Builds a store from a generation of texts and the states of a bundle's users, a part at a time."""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from trackrec.runtime.errors import reason
from trackrec.storage.generations import Generation
from trackrec.store.errors import StoreError
from trackrec.store.records import TEXT_COLUMNS, Codec, StoredState
from trackrec.store.sqlite_store import APPLICATION_ID, digest_of, info_row
from trackrec.store.store import StoreInfo

Row = TypeVar("Row")
_MARKS = ", ".join("?" * (1 + len(TEXT_COLUMNS)))
_SCHEMA = """
CREATE TABLE reccots (
    user TEXT NOT NULL, text BLOB NOT NULL, vector BLOB, prompt_hash TEXT, generator TEXT, encoder TEXT, tier TEXT,
    made_at INTEGER, status TEXT, n_ratings INTEGER, newest INTEGER
);
CREATE TABLE states (user TEXT NOT NULL, state BLOB NOT NULL, vector BLOB);
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class States(NamedTuple):
    """The states of a bundle's users.

    Attributes:
        bundle: digest of the bundle.
        rows: each user and their state; read once.
    """

    bundle: str
    rows: Iterator[tuple[str, StoredState]]


def store_rows(generation: Generation | None, codec: Codec) -> Iterator[tuple[Any, ...]]:
    """(user, then `TEXT_COLUMNS`) of each row of a generation."""
    if generation is not None:
        for frame in generation.iter_frames(("user_id", *TEXT_COLUMNS)):
            for row in frame.iter_rows(named=True):
                yield row["user_id"], *codec.text_row(row)


def state_rows(states: States | None, codec: Codec) -> Iterator[tuple[str, bytes, bytes | None]]:
    """(user, packed state, vector) of each row of the states."""
    if states is not None:
        for user, state in states.rows:
            yield user, *codec.state_row(state)


def build_sqlite(
    generation: Generation | None, states: States | None, output: Path, events_after: int = 0
) -> StoreInfo:
    """Write a store under a temporary name, and rename it when it is whole and on the disk.

    Args:
        generation: the texts; None writes none.
        states: the users' ratings; None writes none.
        events_after: see `StoreInfo`.
        output: the file; an old one is replaced at the end, and a server that has it open keeps the old one.

    Raises:
        StoreError: both are None, a user repeats, or the file can't be written.
        GenerationError: a part can't be read.
    """
    check_sources(generation, states)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with closing(sqlite3.connect(temporary, isolation_level=None)) as db:
            info = _fill(db, generation, states, events_after)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(output)
    except sqlite3.IntegrityError as error:
        raise StoreError(f"{output}: a user repeats in the generation or in the states ({reason(error)}).") from error
    except sqlite3.Error as error:
        raise StoreError(f"{output} can't be written ({reason(error)}). An old file stays as it is.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return info


def check_sources(generation: Generation | None, states: States | None) -> None:
    """Check that there is anything to build a store of.

    Raises:
        StoreError: there isn't.
    """
    if generation is None and states is None:
        raise StoreError("trackrec store build: give --generation, --bundle, or both.")


def info_of(
    generation: Generation | None, states: States | None, counts: tuple[int, int], digest: str, events_after: int
) -> StoreInfo:
    """The description of a store that was built now."""
    about = {} if generation is None else generation.info
    return StoreInfo(
        generation="" if generation is None else generation.name,
        bundle="" if states is None else states.bundle,
        encoder=str(about.get("encoder") or ""),
        dim=int(about.get("dim") or 0),
        texts=counts[0],
        states=counts[1],
        made_at=int(time.time()),
        digest=digest,
        events_after=events_after,
    )


def _fill(db: sqlite3.Connection, generation: Generation | None, states: States | None, events_after: int) -> StoreInfo:
    # The file is thrown away after a crash, so that no journal is needed.
    db.execute("PRAGMA journal_mode = OFF")
    db.execute("PRAGMA synchronous = OFF")
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.executescript(_SCHEMA)
    codec = Codec()
    db.execute("BEGIN")
    db.executemany(f"INSERT INTO reccots VALUES ({_MARKS})", store_rows(generation, codec))
    db.executemany("INSERT INTO states VALUES (?, ?, ?)", state_rows(states, codec))
    # Made at the end, an index is sorted once; parts come in the order of a hash, which would jump about in it.
    db.execute("CREATE UNIQUE INDEX reccots_user ON reccots (user)")
    db.execute("CREATE UNIQUE INDEX states_user ON states (user)")
    texts, users = (db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("reccots", "states"))
    info = info_of(generation, states, (texts, users), digest_of(db), events_after)
    db.execute("INSERT INTO meta VALUES (?, ?)", info_row(info))
    db.execute("COMMIT")
    return info


def in_groups(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    """Lists of ``size`` rows; the last may be shorter."""
    while group := list(islice(rows, size)):
        yield group
