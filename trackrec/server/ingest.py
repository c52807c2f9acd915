"""Appends events in groups: one sync of the disk for all that came while the last one ran."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from trackrec.store.events import Event, EventLog


class Ingest:
    """Awaits that events are on the disk, while other requests are answered.

    Args:
        log: where they go; this is the only one that appends to it in this process.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._thread = ThreadPoolExecutor(1, "events")
        self._waiting: list[tuple[Sequence[Event], asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def append(self, events: Sequence[Event]) -> None:
        """Append all of them or none; they are on the disk when it returns.

        Raises:
            StoreError: they aren't.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((events, done))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write())
        await done

    def close(self) -> None:
        """Wait for the thread and close the log."""
        self._thread.shutdown()
        self._log.close()

    async def _write(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            together = [event for events, _ in group for event in events]
            error: Exception | None = None
            try:
                await asyncio.get_running_loop().run_in_executor(self._thread, self._log.append, together)
            except Exception as found:  # every one of those who wait is told
                error = found
            for _, done in group:
                if done.cancelled():
                    continue
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)
