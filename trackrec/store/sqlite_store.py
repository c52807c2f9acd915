"""A store in one SQLite file that never changes.

    reccots(user, text zstd, vector float16, prompt_hash, generator, encoder, tier, made_at, status, n_ratings, newest)
    states(user, state zstd, vector float32)
    meta(key, value)

Both tables have a unique index on the user. A plain rowid table takes 1.4 kB a user and answers in 5 µs;
``WITHOUT ROWID`` took 4.7 kB and 13 µs.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from trackrec.runtime.errors import reason
from trackrec.store.digest import RowsDigest
from trackrec.store.errors import StoreError
from trackrec.store.records import TEXT_COLUMNS, Codec, Record
from trackrec.store.store import FORMAT, StoreInfo

APPLICATION_ID = 0x74724B31  # "trK1": the file says whose it is
_COLUMNS = ", ".join(TEXT_COLUMNS)
_ONE_TEXT = f"SELECT {_COLUMNS} FROM reccots WHERE user = ?"
_ONE_STATE = "SELECT state, vector FROM states WHERE user = ?"
_MANY_TEXTS = f"SELECT user, {_COLUMNS} FROM reccots WHERE user IN "
_MANY_STATES = "SELECT user, state, vector FROM states WHERE user IN "
_AT_ONCE = 500
_AGAIN = "Build it again with `trackrec store build`."


class SQLiteStore:
    """A store's file, opened as one that nobody writes: no locks, no journal.

    Args:
        path: what `trackrec store build` wrote. It must not be changed while it is open: a new store is another file,
            renamed over the old one.

    Raises:
        StoreError: it is missing, no store, damaged, or of another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise StoreError(f"--store {path}: no such file. Write one with `trackrec store build`.")
        self._codec = Codec()
        with self._damage():
            uri = f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1"
            self._db = sqlite3.connect(uri, uri=True, check_same_thread=False, cached_statements=64)
            if self._db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                raise StoreError(f"{path} is no store of trackrec. {_AGAIN}")
            meta = json.loads(self._db.execute("SELECT value FROM meta WHERE key = 'info'").fetchone()[0])
            if meta.get("format") != FORMAT:
                raise StoreError(f"{path}: format {meta.get('format')}, this trackrec reads {FORMAT}. {_AGAIN}")
            self._info = StoreInfo(**meta)

    @property
    def info(self) -> StoreInfo:
        """See `trackrec.store.store.Store`."""
        return self._info

    def get(self, user: str) -> Record:
        """See `trackrec.store.store.Store`."""
        with self._damage():
            text = self._db.execute(_ONE_TEXT, (user,)).fetchone()
            state = self._db.execute(_ONE_STATE, (user,)).fetchone()
            return self._record(text, state)

    def get_many(self, users: Sequence[str]) -> list[Record]:
        """See `trackrec.store.store.Store`."""
        texts: dict[str, Sequence[Any]] = {}
        states: dict[str, Sequence[Any]] = {}
        with self._damage():
            for start in range(0, len(users), _AT_ONCE):
                asked = list(users[start : start + _AT_ONCE])
                marks = f"({','.join('?' * len(asked))})"
                texts.update((user, row) for user, *row in self._db.execute(_MANY_TEXTS + marks, asked))
                states.update((user, row) for user, *row in self._db.execute(_MANY_STATES + marks, asked))
            return [self._record(texts.get(user), states.get(user)) for user in users]

    def verify(self) -> None:
        """See `trackrec.store.store.Store`."""
        with self._damage():
            if self._db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise StoreError(f"{self.path} is damaged. {_AGAIN}")
            if digest_of(self._db) != self.info.digest:
                raise StoreError(f"{self.path} isn't what was written (its digest differs). {_AGAIN}")

    def some_users(self, count: int) -> list[str]:
        """See `trackrec.store.store.Store`."""
        with self._damage():
            rows = self._db.execute("SELECT user FROM states LIMIT ?", (count,)).fetchall()
            rows = rows or self._db.execute("SELECT user FROM reccots LIMIT ?", (count,)).fetchall()
        return [user for (user,) in rows]

    def close(self) -> None:
        """See `trackrec.store.store.Store`."""
        self._db.close()

    def _record(self, text: Sequence[Any] | None, state: Sequence[Any] | None) -> Record:
        return Record(
            None if text is None else self._codec.text_of(text),
            None if state is None else self._codec.state_of(state),
        )

    @contextmanager
    def _damage(self) -> Iterator[None]:
        """Errors of the file as a `StoreError` that names it."""
        try:
            yield
        except StoreError as error:
            raise error if str(self.path) in str(error) else StoreError(f"{self.path}: {error}") from error
        except (sqlite3.Error, TypeError, ValueError) as error:
            raise StoreError(f"{self.path} can't be read as a store ({reason(error)}). {_AGAIN}") from error


def digest_of(db: sqlite3.Connection) -> str:
    """Of all rows."""
    digest = RowsDigest()
    for row in db.execute(f"SELECT user, {_COLUMNS} FROM reccots"):
        digest.add("reccots", row)
    for row in db.execute("SELECT user, state, vector FROM states"):
        digest.add("states", row)
    return digest.hex()


def info_row(info: StoreInfo) -> tuple[str, str]:
    """The row of ``meta`` that holds a store's description."""
    return "info", json.dumps(asdict(info))
