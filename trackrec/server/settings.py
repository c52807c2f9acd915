"""What `trackrec serve` is told."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from trackrec.runtime.errors import SettingError


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a server.

    Attributes:
        bundle: folder that `trackrec export` wrote.
        store: file, or ``redis://``, that `trackrec store build` wrote.
        events: file of new events; None: ``events.sqlite`` beside the store's file, or the store's Redis server.
        host, port: where to listen; port 0 takes a free one.
        token_env: name of the environment variable that holds the bearer token. Where it isn't set, no token is asked
            for, and only a loopback address is listened on.
        max_body_bytes: a larger body is answered with 413.
        max_items: items or rows of one request.
        max_events: events of one request.
        queue: requests that may wait for an answer at once; more are answered with 503.
        rate: requests a second, on average; more are answered with 429. 0: no limit.
        deadline_ms: a request that has waited longer is answered with 504.
        body_s: how long a client may take to send its body.
        drain_s: after SIGTERM the server answers for so long while it says that it isn't ready.
        verify: compare the whole store with its digest when it is opened.
        log_texts: write texts and ids of users into the log.
    """

    bundle: Path
    store: str
    events: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    token_env: str = "TRACKREC_TOKEN"
    max_body_bytes: int = 1 << 20
    max_items: int = 1000
    max_events: int = 1000
    queue: int = 256
    rate: float = 0.0
    deadline_ms: float = 1000.0
    body_s: float = 5.0
    drain_s: float = 1.0
    verify: bool = True
    log_texts: bool = False

    def __post_init__(self) -> None:
        least = {"max_body_bytes": 1024, "max_items": 1, "max_events": 1, "queue": 1, "rate": 0, "drain_s": 0}
        for key, smallest in {**least, "deadline_ms": 1, "body_s": 0.01, "port": 0}.items():
            if getattr(self, key) < smallest:
                raise SettingError(f"--{key} must be at least {smallest}, got {getattr(self, key)}.")
        if not self.token and not _is_loopback(self.host):
            raise SettingError(
                f"--host {self.host} can be reached from other machines and {self.token_env} is not set. Set a token "
                "there, or listen on 127.0.0.1."
            )

    @property
    def token(self) -> str:
        """The bearer token; empty where none is asked for."""
        return os.environ.get(self.token_env, "")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
