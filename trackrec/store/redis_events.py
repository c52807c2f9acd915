"""New events as Redis streams, one a user: ``trackrec:events:{user}``."""

from __future__ import annotations

import json
from collections.abc import Sequence

from trackrec.store.events import Event
from trackrec.store.redis_server import PREFIX, connect, redis_errors

_LONGEST = 10_000  # events of one user; older ones are cut off
_LOOKED_AT = 4  # times the wanted number: retries repeat in a stream, and clocks are set back


class RedisEvents:
    """An `trackrec.store.events.EventLog` in a Redis server.

    An acknowledged event is as durable as the server is set to be: `is_durable`.

    Args:
        place: ``redis://host:port/0`` or ``unix:///path``.

    Raises:
        MissingPackageError: the package ``redis`` isn't installed.
    """

    def __init__(self, place: str) -> None:
        self.place, self._redis = place, connect(place)

    def append(self, events: Sequence[Event]) -> None:
        """See `trackrec.store.events.EventLog`."""
        with redis_errors(self.place):
            sent = self._redis.pipeline(transaction=True)
            for event in events:
                sent.xadd(_key(event.user), {"e": json.dumps(event[1:])}, maxlen=_LONGEST, approximate=True)
            sent.execute()

    def newest(self, user: str, limit: int) -> list[Event]:
        """See `trackrec.store.events.EventLog`."""
        with redis_errors(self.place):
            found = self._redis.xrevrange(_key(user), count=limit * _LOOKED_AT)
        events = [Event(user, *json.loads(fields[b"e"])) for _, fields in reversed(found)]
        last = {(event.time, event.item): event for event in events}  # the later of two replaces the other
        return sorted(last.values(), key=lambda event: event.time)[-limit:]

    def count(self) -> int:
        """See `trackrec.store.events.EventLog`; retries count too."""
        with redis_errors(self.place):
            return sum(self._redis.xlen(key) for key in self._redis.scan_iter(match=f"{_key('')}*", count=1000))

    def forget(self, user: str) -> int:
        """See `trackrec.store.events.EventLog`; the server's append-only file holds them until the
        server rewrites it (``BGREWRITEAOF``)."""
        with redis_errors(self.place):
            held = self._redis.xlen(_key(user))
            self._redis.delete(_key(user))
        return int(held)

    def is_durable(self) -> bool:
        """Whether the server syncs every write (``appendonly yes``, ``appendfsync always``), as far as it says."""
        with redis_errors(self.place):
            said = self._redis.config_get("append*")
        return bool(said.get("appendonly") == "yes" and said.get("appendfsync") == "always")

    def close(self) -> None:
        """See `trackrec.store.events.EventLog`."""
        self._redis.close()


def _key(user: str) -> str:
    return f"{PREFIX}:events:{user}"
