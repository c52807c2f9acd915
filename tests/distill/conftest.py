"""Scripted servers for the teachers that ask one."""

from __future__ import annotations

from typing import Any

import pytest
from chat_server import KEY, ChatServer

from trackrec.distill import chat_client


@pytest.fixture
def quick(monkeypatch):
    """Short waits, a key, and no proxy between."""
    monkeypatch.setattr(chat_client, "BACKOFF_S", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def serve():
    """``serve(script)`` or ``serve([first, second])``: every history meets the plays of a list in turn."""
    servers = []

    def start(script: Any, port: int = 0) -> ChatServer:
        plays = script if isinstance(script, list) else None
        server = ChatServer((lambda name, turn: plays[min(turn, len(plays) - 1)]) if plays else script, port)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()
