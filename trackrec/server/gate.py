"""What stands before every route: request ids, the token, limits, deadlines, metrics and a line of the log."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from trackrec.server.errors import ProblemError
from trackrec.server.logs import log, say
from trackrec.server.metrics import Metrics
from trackrec.server.settings import ServerSettings

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_OPEN = frozenset({"/", "/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/favicon.ico"})
_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.\-]{1,64}")
_COUNTED = ("/v1/", "/v2/models/", "/admin/")  # routes that wait for their turn; probes never do


class Gate:
    """An ASGI application around another.

    Args:
        app: what answers.
        settings: of the server.
        metrics: of the server.
    """

    def __init__(self, app: App, settings: ServerSettings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self.draining = False
        self.waiting = 0
        self._token = settings.token.encode()
        self._tokens, self._filled = max(1.0, settings.rate), time.monotonic()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, began = time.monotonic(), 0, False
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8).encode()
        scope.setdefault("state", {})["request_id"] = request_id.decode()

        async def answer(message: Message) -> None:
            nonlocal status, began
            if message["type"] == "http.response.start":
                status, began = message["status"], True
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
                if self.draining:  # so that a client opens its next connection to a server that stays
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        self.metrics.waiting.inc()
        try:
            await self._pass(scope, headers, receive, answer, start)
        except ProblemError as problem:
            await problem.response()(scope, receive, answer)
        except Exception as error:
            log.exception("a request failed", exc_info=error)
            if not began:
                await ProblemError(500, "the server failed; its log says how").response()(scope, receive, answer)
        finally:
            self.metrics.waiting.dec()
            self._count(scope, status, time.monotonic() - start, request_id.decode())

    async def _pass(
        self, scope: Message, headers: dict[bytes, bytes], receive: Receive, send: Send, start: float
    ) -> None:
        path = scope["path"]
        if self._token and path not in _OPEN:
            self._check_token(headers.get(b"authorization", b""))
        if not path.startswith(_COUNTED):
            await self.app(scope, receive, send)
            return
        self._check_rate(start)
        if self.waiting >= self.settings.queue:
            raise ProblemError(503, f"{self.waiting} requests wait already", retry_after_s=1)
        self.waiting += 1
        try:
            body = await self._body(headers, receive)
            # All requests that have come are counted before the first of them is answered.
            await asyncio.sleep(0)
            waited = time.monotonic() - start
            if waited * 1000 > self.settings.deadline_ms:
                raise ProblemError(504, f"waited {waited * 1000:.0f} ms, the deadline is {self.settings.deadline_ms:g}")
            await self.app(scope, _replayed(body, receive), send)
        finally:
            self.waiting -= 1

    def _check_token(self, given: bytes) -> None:
        scheme, _, token = given.partition(b" ")
        if scheme.lower() != b"bearer" or not secrets.compare_digest(token.strip(), self._token):
            raise ProblemError(401, "give the server's token: Authorization: Bearer …")

    def _check_rate(self, now: float) -> None:
        """A bucket that a second's worth of requests fills."""
        if not self.settings.rate:
            return
        self._tokens = min(max(1.0, self.settings.rate), self._tokens + (now - self._filled) * self.settings.rate)
        self._filled = now
        if self._tokens < 1:
            wait = max(1, round((1 - self._tokens) / self.settings.rate))
            raise ProblemError(429, f"more than {self.settings.rate:g} requests a second", retry_after_s=wait)
        self._tokens -= 1

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        largest = self.settings.max_body_bytes
        said = headers.get(b"content-length", b"0")
        if said.isdigit() and int(said) > largest:
            raise ProblemError(413, f"the body has {int(said)} bytes, {largest} are allowed")
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self.settings.body_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ProblemError(400, "the client went away")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > largest:
                        raise ProblemError(413, f"the body has more than {largest} bytes")
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise ProblemError(408, f"the body took more than {self.settings.body_s:g} s") from None

    def _count(self, scope: Message, status: int, seconds: float, request_id: str) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self.metrics.requests.labels(route, str(status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        if route in _OPEN or route == "/metrics":
            return
        own = scope["state"].get("log", {})
        level = logging.ERROR if status >= 500 else logging.INFO
        milliseconds = round(seconds * 1000, 3)
        say("request", level, request_id=request_id, route=route, status=status, ms=milliseconds, **own)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A receiver that gives a body that was read already, and then whatever comes."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
