"""New ratings of users, appended durably and read back by the user's next request.

`SQLiteEvents` is a write-ahead-logged SQLite file beside the store; `trackrec.store.redis_events` has streams.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

from trackrec.runtime.errors import reason
from trackrec.store.errors import StoreError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL, item TEXT NOT NULL, rating REAL, time INTEGER NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS events_of_user ON events (user, time, item);
"""
_APPEND = """
INSERT INTO events (user, item, rating, time) VALUES (?, ?, ?, ?)
ON CONFLICT (user, time, item) DO UPDATE SET rating = excluded.rating
"""
_NEWEST = "SELECT user, item, rating, time FROM events WHERE user = ? ORDER BY time DESC, id DESC LIMIT ?"
_WAIT_S = 5.0


class Event(NamedTuple):
    """A rating: ``rating`` is None where the item was only chosen, ``time`` is in seconds since 1970, UTC."""

    user: str
    item: str
    rating: float | None
    time: int


class EventLog(Protocol):
    """Where events go. An event with the user, item and time of an older one replaces it: a retry counts once."""

    def append(self, events: Sequence[Event]) -> None:
        """Append all of them or none; they are on the disk when it returns.

        Raises:
            StoreError: they aren't; for example, the disk is full.
        """

    def newest(self, user: str, limit: int) -> list[Event]:
        """The user's newest events, oldest first.

        Raises:
            StoreError: the log can't be read.
        """

    def count(self) -> int:
        """How many events it holds."""

    def forget(self, user: str) -> int:
        """Delete the user's events, and their bytes; returns how many there were."""

    def close(self) -> None:
        """Let go of files and connections."""


class SQLiteEvents:
    """An event log in a SQLite file, which several processes of one machine may use at once.

    Appending syncs the file before it returns (``synchronous = FULL``): what was acknowledged outlives a kill and a
    power cut. Readers never wait for a writer. One thread may append while another reads.

    Args:
        path: the file; it is made where it is missing.

    Raises:
        StoreError: it can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._errors("opened"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._connect()
            self._writer.executescript(_SCHEMA)
            self._reader = self._connect()
            self._reader.execute("PRAGMA query_only = ON")

    def append(self, events: Sequence[Event]) -> None:
        """See `EventLog`."""
        with self._errors("written"), self._writer:
            self._writer.execute("BEGIN IMMEDIATE")
            self._writer.executemany(_APPEND, events)

    def newest(self, user: str, limit: int) -> list[Event]:
        """See `EventLog`."""
        with self._errors("read"):
            rows = self._reader.execute(_NEWEST, (user, limit)).fetchall()
        return [Event(*row) for row in reversed(rows)]

    def count(self) -> int:
        """See `EventLog`."""
        with self._errors("read"):
            return int(self._reader.execute("SELECT count(*) FROM events").fetchone()[0])

    def forget(self, user: str) -> int:
        """See `EventLog`; the log's old pages are overwritten."""
        with self._errors("written"):
            with self._writer:
                self._writer.execute("BEGIN IMMEDIATE")
                deleted = self._writer.execute("DELETE FROM events WHERE user = ?", (user,)).rowcount
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return deleted

    def close(self) -> None:
        """See `EventLog`."""
        self._reader.close()
        self._writer.close()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA secure_delete = ON")  # a forgotten user's bytes are overwritten
        return db

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"--events {self.path} can't be {what} ({reason(error)}).") from error
