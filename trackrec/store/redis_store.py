"""A store in a Redis server, for when one machine's file is outgrown.

    trackrec:current          the name of the current store
    trackrec:stores           names of the stores that are there, oldest first
    trackrec:{name}           what the store says of itself
    trackrec:{name}:{user}    hash: t text (zstd), v vector (float16), m the other columns (JSON), s state (zstd),
                              w vector of the state (float32)

``{name}`` is the generation's name, a dot and the number of the build, so that a store is never changed: a new build
writes beside the old one and then moves the pointer. The one before stays, for servers that still read it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

from trackrec.storage.generations import Generation
from trackrec.store.build import States, check_sources, in_groups, info_of, state_rows, store_rows
from trackrec.store.digest import RowsDigest
from trackrec.store.errors import StoreError
from trackrec.store.records import Codec, Record
from trackrec.store.redis_server import PREFIX, connect, redis_errors, without_password
from trackrec.store.store import FORMAT, StoreInfo

CURRENT, STORES = f"{PREFIX}:current", f"{PREFIX}:stores"
_AT_ONCE = 1000
_KEPT = 2
_BUILD_WAIT_S = 60.0
_FIELDS = ("t", "v", "m", "s", "w")


class RedisStore:
    """The store that was current when this was made; a later build doesn't change it.

    Args:
        place: ``redis://host:port/0`` or ``unix:///path``.

    Raises:
        StoreError: there is no store, or it is of another format.
        StoreAwayError: the server can't be reached.
        MissingPackageError: the package ``redis`` isn't installed.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self._redis, self._codec = connect(place), Codec()
        with redis_errors(place):
            name = self._redis.get(CURRENT)
            packed = None if name is None else self._redis.get(f"{PREFIX}:{name.decode()}")
        if name is None or packed is None:
            raise StoreError(f"--store {self}: no store there. Write one with `trackrec store build`.")
        self.name = name.decode()
        facts = json.loads(packed)
        if facts.get("format") != FORMAT:
            raise StoreError(f"--store {self}: format {facts.get('format')}, this trackrec reads {FORMAT}.")
        self._info = StoreInfo(**facts)

    def __str__(self) -> str:
        return without_password(self.place)

    @property
    def info(self) -> StoreInfo:
        """See `trackrec.store.store.Store`."""
        return self._info

    def get(self, user: str) -> Record:
        """See `trackrec.store.store.Store`."""
        with redis_errors(self.place):
            found = self._redis.hmget(self._key(user), _FIELDS)
        return self._record(found)

    def get_many(self, users: Sequence[str]) -> list[Record]:
        """See `trackrec.store.store.Store`."""
        with redis_errors(self.place):
            asked = self._redis.pipeline(transaction=False)
            for user in users:
                asked.hmget(self._key(user), _FIELDS)
            return [self._record(found) for found in asked.execute()]

    def verify(self) -> None:
        """See `trackrec.store.store.Store`."""
        digest, before = RowsDigest(), len(self._key(""))
        with redis_errors(self.place):
            keys = self._redis.scan_iter(match=f"{self._key('')}*", count=_AT_ONCE)
            for group in in_groups(keys, _AT_ONCE):
                asked = self._redis.pipeline(transaction=False)
                for key in group:
                    asked.hmget(key, _FIELDS)
                for key, (text, vector, rest, state, of_state) in zip(group, asked.execute(), strict=True):
                    user = key.decode(errors="surrogateescape")[before:]
                    if text is not None:
                        digest.add("reccots", (user, text, vector, *json.loads(rest)))
                    if state is not None:
                        digest.add("states", (user, state, of_state))
        if digest.hex() != self.info.digest:
            raise StoreError(f"--store {self}: {self.name} isn't what was written. Build it again.")

    def some_users(self, count: int) -> list[str]:
        """See `trackrec.store.store.Store`."""
        with redis_errors(self.place):
            keys = list(islice(self._redis.scan_iter(match=f"{self._key('')}*", count=_AT_ONCE), count))
        return [key.decode(errors="replace")[len(self._key("")) :] for key in keys]

    def close(self) -> None:
        """See `trackrec.store.store.Store`."""
        self._redis.close()

    def _key(self, user: str) -> str:
        return f"{PREFIX}:{self.name}:{user}"

    def _record(self, found: Sequence[bytes | None]) -> Record:
        text, vector, rest, state, of_state = found
        return Record(
            None if text is None else self._codec.text_of((text, vector, *json.loads(rest or b"[]"))),
            None if state is None else self._codec.state_of((state, of_state)),
        )


def build_redis(generation: Generation | None, states: States | None, place: str, events_after: int = 0) -> StoreInfo:
    """Write a store into a Redis server beside those that are there, then make it the current one.

    All but the newest two are deleted afterwards. What a build that failed has written is deleted too.

    Raises:
        StoreError: both sources are None, a user repeats, or the server refuses: its memory is full.
        StoreAwayError: the server can't be reached.
        GenerationError: a part can't be read.
    """
    check_sources(generation, states)
    redis = connect(place, _BUILD_WAIT_S)
    name = f"{'states' if generation is None else generation.name}.{secrets.token_hex(4)}"
    with redis_errors(place):
        try:
            info = _fill(redis, name, generation, states, events_after)
        except BaseException:
            _delete(redis, name)
            raise
        moved = redis.pipeline(transaction=True)
        moved.set(f"{PREFIX}:{name}", json.dumps(asdict(info)))
        moved.rpush(STORES, name)
        moved.set(CURRENT, name)
        moved.execute()
        for old in redis.lrange(STORES, 0, -_KEPT - 1):
            _delete(redis, old.decode())
            redis.lrem(STORES, 1, old)
    redis.close()
    return info


def _fill(redis: Any, name: str, generation: Generation | None, states: States | None, events_after: int) -> StoreInfo:
    digest, codec = RowsDigest(), Codec()

    def texts() -> Iterator[tuple[str, dict[str, bytes]]]:
        for user, text, vector, *rest in store_rows(generation, codec):
            digest.add("reccots", (user, text, vector, *rest))
            vectors = {} if vector is None else {"v": vector}
            yield user, {"t": text, **vectors, "m": json.dumps(rest).encode()}

    def packed() -> Iterator[tuple[str, dict[str, bytes]]]:
        for user, state, vector in state_rows(states, codec):
            digest.add("states", (user, state, vector))
            yield user, {"s": state} if vector is None else {"s": state, "w": vector}

    counts = []
    for rows, field in ((texts(), "t"), (packed(), "s")):
        count = 0
        for group in in_groups(rows, _AT_ONCE):
            sent = redis.pipeline(transaction=False)
            for user, values in group:
                sent.hset(f"{PREFIX}:{name}:{user}", mapping=values)
            # HSET says how many fields are new: a user who repeats has them already.
            if any(new != len(values) for new, (_, values) in zip(sent.execute(), group, strict=True)):
                raise StoreError(f"{name}: a user repeats in the {'generation' if field == 't' else 'states'}.")
            count += len(group)
        counts.append(count)
    return info_of(generation, states, (counts[0], counts[1]), digest.hex(), events_after)


def _delete(redis: Any, name: str) -> None:
    for key in redis.scan_iter(match=f"{PREFIX}:{name}:*", count=_AT_ONCE):
        redis.unlink(key)
    redis.delete(f"{PREFIX}:{name}")
