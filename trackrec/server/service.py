"""The state of a running server: what is loaded, the events, and how both change."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trackrec.runtime.errors import TrackRecError
from trackrec.server.answer import rank, recommend, score
from trackrec.server.errors import ProblemError
from trackrec.server.ingest import Ingest
from trackrec.server.loaded import Away, Loaded, User, load, look_up
from trackrec.server.logs import say
from trackrec.server.metrics import Metrics
from trackrec.server.schemas import NewEvent, RankRequest, RecommendRequest
from trackrec.server.settings import ServerSettings
from trackrec.store.errors import StoreError
from trackrec.store.events import Event, EventLog, SQLiteEvents
from trackrec.store.store import is_redis


class Service:
    """Answers, appends and reloads.

    Args:
        settings: of the server.

    Raises:
        TrackRecError: bundle, store or events can't be opened.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.loaded = load(settings)
        self.log = open_events(settings)
        self._ingest, self._away = Ingest(self.log), Away()
        self._reloading = asyncio.Lock()
        self.metrics.now_loaded(self.loaded)

    def user(self, user_id: str) -> tuple[User, bool]:
        """A user, and whether the store answered; see `look_up`."""
        user, whole = look_up(self.loaded, self.log, user_id, self._away, time.monotonic())
        if not whole:
            self.metrics.store_errors.inc()
        return user, whole

    def rank(self, asked: RankRequest) -> tuple[bytes, dict[str, Any]]:
        """The answer to a ranking, and what the log says of it."""
        self.check_items(len(asked.item_ids), "item_ids")
        user, whole = self.user(asked.user_id)
        found = rank(self.loaded, user, asked.item_ids, int(time.time()), asked.top_k, asked.explain, asked.use_text)
        self.metrics.ranked(self.loaded, user, found, len(asked.item_ids))
        said = {"items": len(asked.item_ids), "by": found.answered_by, "store": whole}
        if self.settings.log_texts:
            said |= {"user": asked.user_id, "text": user.text.text if user.text and found.read_text else None}
        return json.dumps(found.body).encode(), said

    def recommend(self, asked: RecommendRequest) -> tuple[bytes, dict[str, Any]]:
        """The answer to a user who names no items, and what the log says of it."""
        wanted = max(asked.k, asked.candidates)
        self.check_items(wanted, "candidates")
        user, whole = self.user(asked.user_id)
        found, candidates = recommend(
            self.loaded, user, int(time.time()), asked.k, wanted, asked.without, asked.explain, asked.use_text
        )
        self.metrics.ranked(self.loaded, user, found, candidates)
        return json.dumps(found.body).encode(), {"items": candidates, "by": found.answered_by, "store": whole}

    def score(self, rows: Sequence[tuple[str, str]], field: str) -> dict[str, Any]:
        """The body of a `trackrec.server.schemas.ScoreAnswer`."""
        self.check_items(len(rows), field)
        users = {user_id: self.user(user_id)[0] for user_id in dict.fromkeys(user_id for user_id, _ in rows)}
        p, by = score(self.loaded, users, rows)
        self.metrics.candidates.observe(len(rows))
        self.metrics.unknown_users.inc(sum(not user.known for user in users.values()))
        self.metrics.unknown_items.inc(sum(item not in self.loaded.bundle.item_rows for _, item in rows))
        self.metrics.scores.add(p)
        return {
            "model_version": self.loaded.bundle.model_version,
            "store_generation": self.loaded.store.info.generation,
            "p": p.tolist(),
            "answered_by": by,
        }

    async def append(self, events: Sequence[NewEvent]) -> int:
        """Append events; they are on the disk when it returns.

        Raises:
            ProblemError: there are too many, or they can't be written: 503.
        """
        if len(events) > self.settings.max_events:
            raise ProblemError(422, f"events: {len(events)} of them, {self.settings.max_events} are allowed")
        now = int(time.time())
        rows = [Event(e.user_id, e.item_id, e.rating, now if e.time is None else e.time) for e in events]
        try:
            await self._ingest.append(rows)
        except StoreError as error:
            say("events were not written", logging.ERROR, error=str(error))
            raise ProblemError(503, "the events can't be written now; none of them was", retry_after_s=5) from error
        self.metrics.events.inc(len(rows))
        return len(rows)

    async def reload(self) -> Loaded:
        """Open bundle and store again beside the old ones, and take them in one step; on failure the old stay.

        Raises:
            ProblemError: what is there now can't be used: 409.
        """
        async with self._reloading:
            try:
                loaded = await asyncio.get_running_loop().run_in_executor(None, load, self.settings)
            except (TrackRecError, OSError) as error:
                self.metrics.reloads.labels("refused").inc()
                say("reload refused, the old bundle and store stay", logging.ERROR, error=str(error))
                raise ProblemError(409, f"the old bundle and store stay: {error}") from error
            old, self.loaded = self.loaded, loaded  # between two requests: answers never await in the middle
            old.store.close()
            self.metrics.reloads.labels("done").inc()
            self.metrics.now_loaded(loaded)
            say("reloaded", model=loaded.bundle.model_version, generation=loaded.store.info.generation)
            return loaded

    def is_ready(self) -> bool:
        """Whether the store answers now."""
        return self.user("")[1]

    def check_items(self, count: int, field: str) -> None:
        """Check the number of items of a request.

        Raises:
            ProblemError: there are too many: 422.
        """
        if count > self.settings.max_items:
            raise ProblemError(422, f"{field}: {count} of them, {self.settings.max_items} are allowed")

    def close(self) -> None:
        """Let go of everything."""
        self._ingest.close()
        self.loaded.store.close()


def open_events(settings: ServerSettings) -> EventLog:
    """The log that the settings name; see `ServerSettings.events`."""
    if settings.events is None and is_redis(settings.store):
        from trackrec.store.redis_events import RedisEvents

        log = RedisEvents(settings.store)
        if not log.is_durable():
            say(
                "Redis doesn't sync every write: an acknowledged event may be lost by a power cut. Set appendonly yes "
                "and appendfsync always.",
                logging.WARNING,
            )
        return log
    return SQLiteEvents(settings.events or events_beside(Path(settings.store)))


def events_beside(store: Path) -> Path:
    """Where the events of a store's file go by default."""
    return store.with_name("events.sqlite")
