"""How trackrec speaks with a Redis server: one client, short waits, errors as its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trackrec.runtime.errors import reason
from trackrec.runtime.packages import need
from trackrec.store.errors import StoreAwayError, StoreError

WAIT_S = 0.25  # a request waits no longer for Redis: its answer is then made without the store
PREFIX = "trackrec"


def connect(place: str, wait_s: float = WAIT_S) -> Any:
    """A `redis.Redis` at ``redis://…``, ``rediss://…`` or ``unix://…``; nothing is sent yet.

    Its types allow text and bytes for every answer, whence ``Any``: this client always answers bytes.

    Raises:
        MissingPackageError: the package ``redis`` isn't installed.
        StoreError: the address can't be read.
    """
    need(f"--store {without_password(place)}", "serve", "redis")
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    try:
        # One retry: a server that was started again has closed the connection that the pool holds.
        return Redis.from_url(place, socket_timeout=wait_s, socket_connect_timeout=wait_s, retry=Retry(NoBackoff(), 1))
    except ValueError as error:
        raise StoreError(f"--store {without_password(place)}: {error}") from error


def without_password(place: str) -> str:
    """An address that may be shown."""
    scheme, _, rest = place.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if "@" in rest else place


@contextmanager
def redis_errors(place: str) -> Iterator[None]:
    """Errors of the client as a `StoreAwayError` where the server can't be reached, else as a `StoreError`."""
    from redis.exceptions import ConnectionError as NoConnection
    from redis.exceptions import RedisError
    from redis.exceptions import TimeoutError as TooLate

    try:
        yield
    except (NoConnection, TooLate) as error:
        raise StoreAwayError(f"{without_password(place)} can't be reached ({reason(error)}).") from error
    except RedisError as error:
        raise StoreError(f"{without_password(place)} refuses ({reason(error)}).") from error
