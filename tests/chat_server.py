"""A scripted OpenAI-compatible server on loopback (real sockets, played failures), and who is asked through it."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from trackrec.distill.answers import ANSWERS
from trackrec.distill.openai_teacher import OpenAITeacher
from trackrec.distill.teacher import TeacherRequest
from trackrec.prompts.settings import PromptSettings
from trackrec.prompts.templates import Item, Rated

WORDS = PromptSettings()
KEY = "sk-test-7f3a9c51e0"
Play = Callable[["Handler"], None]


class ChatServer(ThreadingHTTPServer):
    """Plays ``script(name, turn)`` for the turn-th request about a history; the name is its first film's title."""

    daemon_threads = True

    def __init__(self, script: Callable[[str, int], Play], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.script = script
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.times: dict[str, list[float]] = {}
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is part of the play."""


class Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = next(line for line in body["messages"][0]["content"].splitlines() if line.startswith("Film"))
        self.name = name.split(" ")[0]
        server = self.server
        with server.lock:
            turn = server.asked[self.name]
            server.asked[self.name] += 1
            server.bodies.append({"path": self.path, **body})
            server.keys.add(self.headers["Authorization"])
            server.times.setdefault(self.name, []).append(time.monotonic())
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
        try:
            server.script(self.name, turn)(self)
        finally:
            with server.lock:
                server.busy -= 1

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


def good(text: str | None = None, finish: str = "stop", usage: bool = True, **message: Any) -> Play:
    """An answer of 100 tokens read and 10 written; its text names the history."""

    def play(handler: Handler) -> None:
        content = f"Likes {handler.name}." if text is None else text
        answer = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": finish,
                    "message": {"role": "assistant", "content": content, **message},
                }
            ],
        }
        if usage:
            answer["usage"] = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        handler.send(200, json.dumps(answer).encode())

    return play


def fails(status: int, code: str | None = None, message: str = "no", **headers: str) -> Play:
    body = json.dumps({"error": {"message": message, "code": code, "type": "t", "param": None}}).encode()
    return lambda handler: handler.send(status, body, **headers)


def echoes_key(handler: Handler) -> None:
    """An error that repeats the key, as real servers do."""
    fails(401, "invalid_api_key", f"Incorrect API key provided: {handler.headers['Authorization']}")(handler)


def drops(handler: Handler) -> None:
    """The connection breaks in the middle of the body."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"id"')
    handler.wfile.flush()
    handler.connection.close()


def after(seconds: float, play: Play) -> Play:
    def late(handler: Handler) -> None:
        time.sleep(seconds)
        play(handler)

    return late


def raw(body: bytes, **headers: str) -> Play:
    return lambda handler: handler.send(200, body, **headers)


def requests(count: int) -> list[TeacherRequest]:
    """Histories h0 ... whose only film is Film0 ..."""
    return [
        TeacherRequest(f"h{i}", f"u{i}", [Rated(Item(f"Film{i} of the day", ["Drama"], 1990), True)])
        for i in range(count)
    ]


def teacher(server: ChatServer | str, **changes: Any) -> OpenAITeacher:
    url = server if isinstance(server, str) else server.url
    return OpenAITeacher(**{"model": "m", "base_url": url, "timeout_s": 5.0, "max_retries": 3} | changes)


def kept(out_dir: Path) -> set[str]:
    lines = (out_dir / ANSWERS).read_text().splitlines() if (out_dir / ANSWERS).exists() else []
    return {json.loads(line)["history_id"] for line in lines}


def grep(directory: Path, word: str) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and word.encode() in path.read_bytes()]
