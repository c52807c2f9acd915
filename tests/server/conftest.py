"""A bundle of a small training, a store of texts for its users, and servers on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import numpy as np
import pytest

from tests.ctr.ctr_tables import make_tables
from tests.ctr.test_ctr_export import made_inputs, plan
from tests.store.conftest import redis_server  # noqa: F401
from tests.store.made_store import make_generation
from trackrec.commands.store import states_of
from trackrec.ctr.stage import run_ctr
from trackrec.serving.export import export_bundle
from trackrec.store.build import build_sqlite

USERS = [f"u{number}" for number in range(10)]
ITEMS = [f"i{number}" for number in range(15)]


class World(NamedTuple):
    """Two bundles of one run, trained from other seeds, a store of the first, and one of the second."""

    bundle: Path
    store: Path
    other_bundle: Path
    other_store: Path


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    where = tmp_path_factory.mktemp("world")
    ratings = np.random.default_rng(0).integers(1, 6, (12, 15)).astype(float)
    tables = make_tables(ratings)
    inputs, made = made_inputs(tables), plan(["none", "reccot"], seeds=[3, 4])
    run_ctr(inputs, made, where / "ctr", 0, lambda _: None)
    made_of = {}
    for name, seed in (("bundle", 3), ("other", 4)):
        export_bundle(inputs, made, where / "ctr", "reccot", seed, 0, where / name, "mini")
        generation = make_generation(where / f"gens-{name}", f"gen-{name}", USERS, dim=6)
        build_sqlite(generation, states_of(where / name), where / f"{name}.sqlite")
        made_of[name] = (where / name, where / f"{name}.sqlite")
    return World(*made_of["bundle"], *made_of["other"])


class Running:
    """A server's process, and a client of it."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process, self.url = process, url
        self.client = httpx2.Client(base_url=url, timeout=30)

    def post(self, path: str, body: Any, **more: Any) -> httpx2.Response:
        return self.client.post(path, json=body, **more)

    def get(self, path: str, **more: Any) -> httpx2.Response:
        return self.client.get(path, **more)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts ``trackrec serve`` on a free port and waits until it is ready; its log is ``server.log``."""
    started: list[Running] = []

    def run(bundle: Path, store: Path | str, *words: str, env: dict[str, str] | None = None) -> Running:
        path = tmp_path / f"server{len(started)}.log"
        command = [sys.executable, "-m", "trackrec", "serve", "--bundle", str(bundle), "--store", str(store)]
        command += ["--port", "0", "--events", str(tmp_path / "events.sqlite"), *words]
        with path.open("w") as log:
            process = subprocess.Popen(command, stderr=log, text=True, env={**os.environ, **(env or {})})
        for _ in range(1500):
            lines = [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]
            urls = [line["url"] for line in lines if line["event"] == "listening"]
            if urls:
                started.append(Running(process, urls[0]))
                return started[-1]
            if process.poll() is not None:
                break
            time.sleep(0.02)
        raise RuntimeError(path.read_text())

    yield run
    for running in started:
        running.client.close()
        with contextlib.suppress(ProcessLookupError):
            running.process.kill()
        running.process.wait()
