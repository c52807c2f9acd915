"""The protocol of a store, and how a place names one: a file, or ``redis://host:port/0``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from trackrec.store.records import Record

FORMAT = 1


@dataclass(frozen=True)
class StoreInfo:
    """What a store says of itself.

    Attributes:
        generation: name of the generation of its texts; empty for a store of states alone.
        bundle: digest of the bundle whose states it holds; empty for a store of texts alone.
        encoder: name of the texts' encoder.
        dim: length of the vectors.
        texts: users with a text.
        states: users with a state.
        made_at: when it was built, seconds since 1970, UTC.
        digest: of all rows.
        events_after: only events later than this moment join the states, which hold the earlier ones already; seconds
            since 1970, UTC.
        format: of the store.
    """

    generation: str
    bundle: str
    encoder: str
    dim: int
    texts: int
    states: int
    made_at: int
    digest: str
    events_after: int = 0
    format: int = FORMAT


class Store(Protocol):
    """A generation's texts and the users' states, read-only."""

    @property
    def info(self) -> StoreInfo:
        """What it holds."""

    def get(self, user: str) -> Record:
        """What is stored of a user; both parts are None for an unknown one.

        Raises:
            StoreAwayError: it can't be reached now.
            StoreError: the user's record is damaged.
        """

    def get_many(self, users: Sequence[str]) -> list[Record]:
        """`get` of each, in order."""

    def verify(self) -> None:
        """Compare all rows with the digest.

        Raises:
            StoreError: they differ.
        """

    def some_users(self, count: int) -> list[str]:
        """Up to so many users that it holds, in its own order."""

    def close(self) -> None:
        """Let go of files and connections."""


def is_redis(place: str) -> bool:
    """Whether a place names a Redis server rather than a file."""
    return place.startswith(("redis://", "rediss://", "unix://"))


def open_store(place: str) -> Store:
    """The store at a place.

    Raises:
        StoreError: there is none, or it can't be read.
        MissingPackageError: the package ``redis`` isn't installed.
    """
    if is_redis(place):
        from trackrec.store.redis_store import RedisStore

        return RedisStore(place)
    from trackrec.store.sqlite_store import SQLiteStore

    return SQLiteStore(Path(place))
