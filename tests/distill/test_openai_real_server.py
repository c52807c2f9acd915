"""OpenAITeacher against transformers serve, killed and restarted while it is asked."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from chat_server import KEY, WORDS, grep, kept, requests

from trackrec.distill import chat_client
from trackrec.distill.answers import ANSWERS
from trackrec.distill.openai_teacher import OpenAITeacher
from trackrec.distill.teacher import TeacherError

pytest.importorskip("openai", reason="OpenAITeacher needs the teacher extra")
pytestmark = pytest.mark.usefixtures("quick")


class RealServer:
    """``transformers serve`` on loopback, as a process that can be killed."""

    def __init__(self, model: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.model, self.log = model, log
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = self.kills = 0

    def start(self) -> None:
        program = Path(sys.executable).with_name("transformers")
        command = [program, "serve", self.model, "--port", self.port, "--host", "127.0.0.1", "--device", "cpu"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OPENAI_API_KEY": ""},
                stdout=log,
                stderr=log,
            )
        self.starts += 1

    def wait(self, seconds: float = 240) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1):
                    return
            except OSError:
                time.sleep(0.2)
        raise TimeoutError(self.log.read_text()[-2000:])

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()  # nice has become the server itself
            self.process.wait()
            self.process = None
            self.kills += 1


def when_kept(out_dir: Path, count: int, do: Any) -> threading.Thread:
    """Do something in a thread once so many answers are on the disk."""

    def watch() -> None:
        while len(kept(out_dir)) < count:
            time.sleep(0.02)
        do()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny", pytest.param("smollm2", marks=pytest.mark.models)])
def test_a_real_server_killed_and_restarted(model, tmp_path, tiny_model_dir, monkeypatch):
    """Killed twice by SIGKILL: once for good, so that write raises; once while write waits for it to come back."""
    pytest.importorskip("fastapi", reason="transformers serve needs fastapi and uvicorn")
    pytest.importorskip("uvicorn", reason="transformers serve needs fastapi and uvicorn")
    directory = tiny_model_dir if model == "tiny" else Path("data/smollm2-135m-instruct").resolve()
    if not (directory / "config.json").exists():
        pytest.skip("no data/smollm2-135m-instruct: make models")
    monkeypatch.setattr(chat_client, "BACKOFF_S", 0.2)
    server, out_dir, due = RealServer(directory, tmp_path / "server.log"), tmp_path / "out", requests(40)
    options: dict[str, Any] = {"model": str(directory), "base_url": f"http://127.0.0.1:{server.port}/v1"}
    options |= {"concurrency": 2, "timeout_s": 120.0, "temperature": 0.0, "max_new_tokens": 24}
    try:
        server.start()
        server.wait()
        killer = when_kept(out_dir, 10, server.kill)
        with pytest.raises(TeacherError, match="Run again: only the missing answers are requested"):
            OpenAITeacher(**options, max_retries=1).write(due, WORDS, out_dir)
        killer.join()
        first = kept(out_dir)
        assert 10 <= len(first) < 40

        server.start()
        server.wait()

        def restart() -> None:
            server.kill()
            server.start()

        killer = when_kept(out_dir, 25, restart)
        made = OpenAITeacher(**options, max_retries=20).write(due, WORDS, out_dir)
        killer.join()
        server.kill()
    finally:
        server.kill()
    again = OpenAITeacher(**options).write(due, WORDS, out_dir)  # nobody is there to answer
    assert again.texts == made.texts
    lines = [json.loads(line)["history_id"] for line in (out_dir / ANSWERS).read_text().splitlines()]
    assert len(lines) == len(set(lines)) == 40
    assert made.counts["answers_kept"] == len(first)
    assert made.counts["retries"] >= 1
    assert made.counts["requests"] == 40 - len(first) + made.counts["retries"]
    assert made.counts["completion_tokens"] > 0
    assert (server.starts, server.kills) == (3, 3)
    logging.getLogger(__name__).info("kept at first %d, then %s", len(first), made.counts)  # --log-cli-level=INFO
    assert not grep(tmp_path, KEY)
