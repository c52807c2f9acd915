"""The real command: what a running server answers, how it stops, reloads and refuses."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.server.conftest import ITEMS, Running, World
from trackrec.serving.bundle import open_bundle
from trackrec.serving.ranker import Ranker
from trackrec.store.sqlite_store import SQLiteStore

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")]
Start = Callable[..., Running]


def test_no_torch_in_the_process(world: World, start: Start) -> None:
    server = start(world.bundle, world.store)
    assert server.post("/v1/rank", {"user_id": "u1", "item_ids": ITEMS}).status_code == 200
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "onnxruntime" in maps
    assert "libtorch" not in maps
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    rss_kib = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
    assert rss_kib < 250 * 1024
    assert server.stop() == 0


def test_events_outlive_a_kill_and_the_next_request_reads_them(world: World, start: Start) -> None:
    server = start(world.bundle, world.store)
    before = server.post("/v1/rank", {"user_id": "u1", "item_ids": ITEMS}).json()
    event = {"user_id": "u1", "item_id": "i3", "rating": 1.0, "time": 9_999}
    assert server.post("/v1/events", {"events": [event]}).json() == {"accepted": 1}
    after = server.post("/v1/rank", {"user_id": "u1", "item_ids": ITEMS}).json()
    assert after["items"] != before["items"]
    server.stop(signal.SIGKILL)
    again = start(world.bundle, world.store)
    assert again.post("/v1/rank", {"user_id": "u1", "item_ids": ITEMS}).json()["items"] == after["items"]
    bundle = open_bundle(world.bundle)
    stored = SQLiteStore(world.store).get("u1").text
    assert stored is not None
    state = next(state for state in bundle.users() if state.user_id == "u1").with_text(stored.vector)
    due = Ranker(bundle).answer(state.newer(["i3"], [1.0]), ITEMS)
    found = {item["item_id"]: item["p"] for item in after["items"]}
    assert [found[item] for item in ITEMS] == pytest.approx(due.p.tolist(), abs=1e-6)


def under_load(server: Running, stop: threading.Event, failed: list[str], done: list[int]) -> list[threading.Thread]:
    """Four clients that ask until ``stop``, or until the server says that it is stopping."""

    def ask() -> None:
        import httpx2

        with httpx2.Client(base_url=server.url, timeout=30) as client:
            while not stop.is_set():
                try:
                    answer = client.post("/v1/rank", json={"user_id": "u1", "item_ids": ITEMS})
                    if answer.status_code != 200:
                        failed.append(answer.text)
                except httpx2.ConnectError:
                    return  # it listens no more: a client then asks another server
                except httpx2.HTTPError as error:
                    failed.append(repr(error))
                    return
                done.append(1)
                if answer.headers.get("connection") == "close":
                    return  # it is stopping: a client then asks another server

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    return threads


def test_reload_and_sigterm_under_load_lose_no_request(world: World, start: Start, tmp_path: Path) -> None:
    bundle, store = tmp_path / "live", tmp_path / "live.sqlite"
    bundle.symlink_to(world.bundle)
    store.symlink_to(world.store)
    server = start(bundle, store)
    stop, failed, done = threading.Event(), [], []
    threads = under_load(server, stop, failed, done)
    versions = set()
    for turn in range(6):
        for link, target in ((bundle, (world.other_bundle, world.bundle)), (store, (world.other_store, world.store))):
            new = link.with_name("new")
            new.symlink_to(target[turn % 2])
            new.replace(link)
        answer = server.post("/admin/reload", None)
        assert answer.status_code == 200, answer.text
        versions.add(answer.json()["model_version"])
    assert len(versions) == 2
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(done) > 50


def test_a_damaged_bundle_or_store_is_refused_and_the_old_one_stays(world: World, start: Start, tmp_path: Path) -> None:
    bundle = shutil.copytree(world.bundle, tmp_path / "bundle")
    store = shutil.copy(world.store, tmp_path / "store.sqlite")
    server = start(bundle, store)
    before = server.post("/v1/rank", {"user_id": "u1", "item_ids": ITEMS}).content

    def refused(why: str) -> None:
        answer = server.post("/admin/reload", None)
        assert (answer.status_code, answer.headers["content-type"]) == (409, "application/problem+json")
        assert why in answer.json()["detail"]
        assert server.post("/v1/rank", {"user_id": "u1", "item_ids": ITEMS}).content == before

    whole = (bundle / "net.onnx").read_bytes()
    (bundle / "net.onnx").write_bytes(whole[:-1] + b"x")
    refused("sha256 differs")
    (bundle / "net.onnx").write_bytes(whole)
    damaged = bytearray(world.store.read_bytes())
    record = damaged.index(b"\x28\xb5\x2f\xfd")  # a zstd frame
    damaged[record + 8 : record + 16] = os.urandom(8)
    new = tmp_path / "new"
    new.write_bytes(damaged)
    new.replace(store)
    refused("store.sqlite")
    shutil.copy(world.other_store, new)
    new.replace(store)
    refused("another bundle")
    server.process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert server.get("/readyz").status_code == 200
    assert 'trackrec_reloads_total{result="refused"}' in server.get("/metrics").text
    shutil.copy(world.store, new)
    new.replace(store)
    assert server.post("/admin/reload", None).status_code == 200


def test_what_can_not_start_says_why_and_exits(world: World, start: Start, tmp_path: Path) -> None:
    for bundle, store, words, why in (
        (tmp_path, world.store, (), "is no bundle"),
        (world.bundle, tmp_path / "none", (), "trackrec store build"),
        (world.bundle, world.other_store, (), "another bundle"),
        (world.bundle, world.store, ("--host", "0.0.0.0"), "TRACKREC_TOKEN is not set"),
        (world.bundle, world.store, ("--queue", "0"), "--queue must be at least 1"),
    ):
        with pytest.raises(RuntimeError, match=why):
            start(bundle, store, *words)


def test_redis_gone_and_back(world: World, start: Start, redis_server, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from trackrec.commands.store import states_of
    from trackrec.storage.generations import open_generation
    from trackrec.store.redis_store import build_redis

    generation = open_generation(world.bundle.parent / "gens-bundle")
    build_redis(generation, states_of(world.bundle), redis_server.place)
    server = start(world.bundle, redis_server.place, "--events", "null")
    whole = server.post("/v1/rank", {"user_id": "u1", "item_ids": ITEMS}).json()
    assert whole["answered_by"] == "reccot"
    redis_server.stop()
    degraded = server.post("/v1/rank", {"user_id": "u1", "item_ids": ITEMS})
    assert degraded.status_code == 200
    assert degraded.json()["answered_by"] != "reccot"
    assert server.get("/readyz").status_code == 503
    event = {"events": [{"user_id": "u1", "item_id": "i3", "rating": 1.0}]}
    lost = server.post("/v1/events", event)
    assert (lost.status_code, lost.headers["retry-after"]) == (503, "5")
    redis_server.start()
    time.sleep(1.2)
    assert server.post("/v1/rank", {"user_id": "u1", "item_ids": ITEMS}).json() == {
        **whole,
        "text": degraded_age(whole),
    }
    assert server.post("/v1/events", event).status_code == 200
    assert server.get("/readyz").status_code == 200


def degraded_age(answer: dict) -> object:  # type: ignore[type-arg]
    """The text of an answer, whatever its age is by now."""

    class Same(dict):  # type: ignore[type-arg]
        def __eq__(self, other: object) -> bool:
            assert isinstance(other, dict)
            return {**other, "age_s": 0} == {**self, "age_s": 0}

        __hash__ = None  # type: ignore[assignment]

    return Same(answer["text"])
