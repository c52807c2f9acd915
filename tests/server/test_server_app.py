"""Every route within one process: answers, errors, limits, the schema."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from tests.server.conftest import ITEMS, USERS, World
from trackrec.runtime.errors import SettingError
from trackrec.server import schemas
from trackrec.server.app import make_app
from trackrec.server.gate import Gate
from trackrec.server.service import Service
from trackrec.server.settings import ServerSettings
from trackrec.serving.bundle import open_bundle
from trackrec.serving.ranker import Ranker
from trackrec.store.sqlite_store import SQLiteStore

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")]


def made(world: World, folder: Path, **changes: Any) -> tuple[Service, Gate, TestClient]:
    values = {"bundle": world.bundle, "store": str(world.store), "events": folder / "events.sqlite", **changes}
    service = Service(ServerSettings(**values))
    gate = make_app(service)
    return service, gate, TestClient(gate, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    service, _, found = made(world, tmp_path_factory.mktemp("app"))
    with found:
        yield found
    service.close()


def problem(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    schemas.Problem.model_validate_json(answer.content, strict=True)
    found: dict[str, Any] = answer.json()
    assert found["status"] == status
    return found


def test_answers_are_those_of_the_ranker(client: TestClient, world: World) -> None:
    """Two thousand rows, of users with a stored text, with the bundle's or without one, and of strangers."""
    bundle = open_bundle(world.bundle)
    ranker, store = Ranker(bundle), SQLiteStore(world.store)
    states = {state.user_id: state for state in bundle.users()}
    rng = np.random.default_rng(0)
    for user in [*states, "nobody"] * 10:
        items = rng.permutation([*ITEMS, "x"]).tolist()
        state, text = states.get(user, bundle.stranger(user)), store.get(user).text
        if text is not None and text.vector is not None:
            state = state.with_text(text.vector)
        due = dict(zip(items, ranker.answer(state, items).p.tolist(), strict=True))
        ranked = client.post("/v1/rank", json={"user_id": user, "item_ids": items})
        found = schemas.RankAnswer.model_validate_json(ranked.content, strict=True)
        assert {one.item_id: one.p for one in found.items} == pytest.approx({i: due[i] for i in ITEMS}, abs=1e-6)
        assert [one.p for one in found.items] == sorted((due[item] for item in ITEMS), reverse=True)
        assert found.unknown_items == ["x"]
        rows = {"rows": [{"user_id": user, "item_id": item} for item in items]}
        scored = schemas.ScoreAnswer.model_validate_json(client.post("/v1/score", json=rows).content, strict=True)
        assert scored.p == pytest.approx([due[item] for item in items], abs=1e-6)
        assert scored.answered_by[items.index("x")] == "base_rate"


def test_items_are_found_and_ranked_for_a_user_who_names_none(client: TestClient) -> None:
    asked = {"user_id": "nobody", "k": 3, "candidates": 5}
    answer = client.post("/v1/recommend", json=asked)
    found = schemas.RecommendAnswer.model_validate_json(answer.content, strict=True)
    assert len(found.items) == 3
    assert all(one.found_by for one in found.items)
    named = {"user_id": "nobody", "item_ids": [one.item_id for one in found.items]}
    ranked = client.post("/v1/rank", json=named).json()["items"]
    assert {one["item_id"]: one["p"] for one in ranked} == {one.item_id: one.p for one in found.items}
    assert [one.p for one in found.items] == sorted((one.p for one in found.items), reverse=True)
    best = found.items[0].item_id
    others = client.post("/v1/recommend", json={**asked, "without": [best]}).json()
    assert best not in [one["item_id"] for one in others["items"]]
    for user in ("u1", "u2"):
        rated = {one["item_id"] for one in client.get(f"/v1/users/{user}/history").json()["items"]}
        plain = client.post("/v1/recommend", json={"user_id": user, "use_text": False}).json()
        assert not rated & {one["item_id"] for one in plain["items"]}
        assert plain["text"]["source"] == "none"
        assert all("text" not in one["found_by"] for one in plain["items"])
    problem(client.post("/v1/recommend", json={**asked, "k": 0}), 422)
    problem(client.post("/v1/recommend", json={**asked, "candidates": 99_999}), 422)


def test_rows_of_several_users_keep_their_order(client: TestClient) -> None:
    pairs = [(user, item) for item in ITEMS[:3] for user in ("u1", "u2", "nobody")]
    together = client.post("/v1/score", json={"rows": [{"user_id": u, "item_id": i} for u, i in pairs]}).json()
    alone = [client.post("/v1/score", json={"rows": [{"user_id": u, "item_id": i}]}).json()["p"][0] for u, i in pairs]
    assert together["p"] == pytest.approx(alone, abs=1e-6)


def test_the_text_is_explained_and_can_be_turned_off(client: TestClient) -> None:
    asked = {"user_id": "u1", "item_ids": ITEMS, "explain": True}
    told = client.post("/v1/rank", json=asked).json()
    assert told["text"]["source"] == "reccot"
    assert told["text"]["text"].startswith("u1 likes films")
    assert told["text"]["age_s"] >= 0
    off = client.post("/v1/rank", json={**asked, "use_text": False}).json()
    assert off["text"] == {"source": "none", "made_at": None, "age_s": None}
    assert (told["answered_by"], off["answered_by"]) == ("reccot", "none")
    assert [item["p"] for item in off["items"]] != [item["p"] for item in told["items"]]
    bundled = client.post("/v1/rank", json={**asked, "user_id": "u2"}).json()  # its text failed and has no vector
    assert bundled["text"] == {"source": "bundle", "made_at": None, "age_s": None}
    assert client.post("/v1/rank", json={**asked, "user_id": "u11"}).json()["text"]["source"] == "none"


def test_top_k_repeats_and_unknown_items(client: TestClient) -> None:
    found = client.post("/v1/rank", json={"user_id": "u1", "item_ids": ["i1", "i1", "x", "i2", "x"], "top_k": 1}).json()
    assert len(found["items"]) == 1
    assert found["unknown_items"] == ["x"]
    nothing = client.post("/v1/rank", json={"user_id": "u1", "item_ids": ["x"]}).json()
    assert (nothing["items"], nothing["answered_by"]) == ([], "base_rate")


def test_a_users_text_and_history(client: TestClient) -> None:
    text = schemas.ReccotAnswer.model_validate_json(client.get("/v1/users/u1/reccot").content, strict=True)
    assert (text.source, text.generator, text.store_generation) == ("reccot", "v1", "gen-bundle")
    assert client.get("/v1/users/u2/reccot").json()["source"] == "profile"
    problem(client.get("/v1/users/nobody/reccot"), 404)
    history = schemas.HistoryAnswer.model_validate_json(client.get("/v1/users/u1/history").content, strict=True)
    assert history.known
    assert len(history.items) == 4
    assert history.items[0].title.startswith("Film")
    assert not client.get("/v1/users/no%2Fbody/history").json()["known"]
    assert set(USERS) <= set(client.get("/v1/users").json())
    items = [schemas.CatalogueItem.model_validate(item) for item in client.get("/v1/items?limit=5").json()]
    assert len(items) == 5
    problem(client.get("/v1/items?limit=0"), 422)


def test_events_are_read_by_the_next_request(world: World, tmp_path: Path) -> None:
    service, _, client = made(world, tmp_path)
    with client:
        asked = {"user_id": "ünï 😀", "item_ids": ITEMS}
        before = client.post("/v1/rank", json=asked).json()
        event = {"user_id": "ünï 😀", "item_id": "i3", "rating": 5.0}
        assert client.post(
            "/v1/events", json={"events": [event, {**event, "item_id": "i4", "rating": None}]}
        ).json() == {"accepted": 2}
        after = client.post("/v1/rank", json=asked).json()
        assert after["items"] != before["items"]
        history = client.get("/v1/users/ünï 😀/history").json()
        assert [(item["item_id"], item["rating"]) for item in history["items"]] == [("i4", None), ("i3", 5.0)]
        assert history["known"]
        service.log.append = _full  # type: ignore[method-assign]
        lost = client.post("/v1/events", json={"events": [event]})
        assert problem(lost, 503)["detail"].startswith("the events can't be written now")
        assert lost.headers["retry-after"] == "5"
    service.close()


def _full(events: object) -> None:
    from trackrec.store.errors import StoreError

    raise StoreError("the disk is full")


def test_the_open_inference_protocol(client: TestClient) -> None:
    def tensor(name: str, values: list[Any]) -> dict[str, Any]:
        return {"name": name, "shape": [len(values)], "datatype": "BYTES", "data": values}

    inputs = [tensor("user_id", ["u1", "u2"]), tensor("item_id", ["i1", "i2"])]
    found = client.post("/v2/models/trackrec/infer", json={"id": "7", "inputs": inputs}).json()
    rows = {"rows": [{"user_id": "u1", "item_id": "i1"}, {"user_id": "u2", "item_id": "i2"}]}
    scored = client.post("/v1/score", json=rows).json()
    assert found["id"] == "7"
    assert found["outputs"] == [{"name": "p", "datatype": "FP32", "shape": [2], "data": scored["p"]}]
    assert client.get("/v2/models/trackrec").json()["versions"] == [scored["model_version"]]
    assert client.get("/v2/models/trackrec/ready").json()["ready"]
    assert client.get("/v2/health/ready").status_code == client.get("/v2/health/live").status_code == 200
    for wrong in (
        inputs[:1],
        [inputs[0], tensor("item_id", ["i1"])],
        [inputs[0], tensor("item_id", [1, 2])],
        [inputs[0], {**inputs[1], "shape": [3]}],
        [inputs[0], {**inputs[1], "datatype": "FP32"}],
    ):
        assert "inputs" in problem(client.post("/v2/models/trackrec/infer", json={"inputs": wrong}), 422)["detail"]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"", "body"),
        (b"{", "JSON"),
        (b"[]", "body"),
        (b'{"user_id": 7, "item_ids": ["a"]}', "user_id"),
        (b'{"user_id": "u", "item_ids": []}', "item_ids"),
        (b'{"user_id": "u", "item_ids": ["a"], "top_k": 0}', "top_k"),
        (b'{"user_id": "u", "item_ids": ["a"], "topk": 1}', "topk"),
        (b'{"user_id": "u", "item_ids": ["\\ud800"]}', "item_ids.0"),
        (b"\xff\xfe", ""),
        (b"[" * 50_000, ""),
    ],
)
def test_an_invalid_body_is_told_where(client: TestClient, body: bytes, where: str) -> None:
    answer = client.post("/v1/rank", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert where in problem(answer, answer.status_code)["detail"]


def test_limits(world: World, tmp_path: Path) -> None:
    service, gate, client = made(world, tmp_path, max_body_bytes=2000, max_items=20, max_events=2, rate=5.0)
    with client:
        problem(client.post("/v1/rank", content=b" " * 3000), 413)
        problem(client.post("/v1/rank", content=(b" " * 1000 for _ in range(3))), 413)
        too_many = {"user_id": "u1", "item_ids": ["i1"] * 21}
        assert "20 are allowed" in problem(client.post("/v1/rank", json=too_many), 422)["detail"]
        events = {"events": [{"user_id": "u", "item_id": "i"}] * 3}
        assert "2 are allowed" in problem(client.post("/v1/events", json=events), 422)["detail"]
        answers = [client.get("/v1/items") for _ in range(9)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert int(refused[0].headers["retry-after"]) >= 1
        assert client.get("/readyz").status_code == 200  # probes have no limit
        gate._tokens = 5.0
        gate.waiting = service.settings.queue
        full = client.get("/v1/items")
        problem(full, 503)
        assert full.headers["retry-after"] == "1"
        assert client.get("/livez").status_code == 200
        gate.draining = True
        problem(client.get("/readyz"), 503)
        assert client.get("/livez").headers["connection"] == "close"
    service.close()


def test_what_waited_past_the_deadline_is_refused(world: World, tmp_path: Path) -> None:
    """A hundred requests come at once and each takes a while: those at the end are told so, and none keeps waiting."""
    service, gate, _ = made(world, tmp_path, deadline_ms=30.0, queue=80)
    statuses: list[int] = []
    body = json.dumps({"user_id": "u1", "item_ids": ITEMS * 60}).encode()

    async def one() -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        scope = {"type": "http", "method": "POST", "path": "/v1/rank", "raw_path": b"/v1/rank", "query_string": b""}
        await gate({**scope, "headers": [(b"content-type", b"application/json")]}, receive, send)

    async def together() -> None:
        await asyncio.gather(*(one() for _ in range(100)))

    asyncio.run(together())
    assert len(statuses) == 100
    assert statuses.count(503) == 20
    assert statuses.count(200) > 0
    assert statuses.count(504) > 0
    assert set(statuses) == {200, 503, 504}
    assert gate.waiting == 0
    service.close()


def test_a_slow_client_is_cut_off(world: World, tmp_path: Path) -> None:
    service, gate, _ = made(world, tmp_path, body_s=0.05)
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(60)
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/rank", "headers": []}
    asyncio.run(gate(scope, receive, send))
    assert sent[0]["status"] == 408
    service.close()


def test_the_token(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKREC_TOKEN", "secret")
    service, _, client = made(world, tmp_path, host="0.0.0.0")
    with client:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic secret"}):
            answer = client.get("/v1/users", headers=headers)
            problem(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"
            problem(client.get("/metrics", headers=headers), 401)
            problem(client.post("/admin/reload", headers=headers), 401)
        assert client.get("/v1/users", headers={"authorization": "Bearer secret"}).status_code == 200
        assert client.get("/livez").status_code == client.get("/").status_code == 200
    service.close()
    monkeypatch.delenv("TRACKREC_TOKEN")
    with pytest.raises(SettingError, match=r"0\.0\.0\.0 can be reached from other machines"):
        made(world, tmp_path, host="0.0.0.0")


def test_metrics_count_what_happened(world: World, tmp_path: Path) -> None:
    service, _, client = made(world, tmp_path)
    with client:
        client.post("/v1/rank", json={"user_id": "u1", "item_ids": [*ITEMS, "x", "y"]})
        client.post("/v1/rank", json={"user_id": "nobody", "item_ids": ITEMS})
        client.post("/v1/rank", json={})
        client.post("/v1/events", json={"events": [{"user_id": "u", "item_id": "i", "rating": 1}]})
        found = client.get("/metrics").text
    for line in (
        'trackrec_requests_total{route="/v1/rank",status="200"} 2.0',
        'trackrec_requests_total{route="/v1/rank",status="422"} 1.0',
        'trackrec_request_seconds_count{route="/v1/rank"} 3.0',
        "trackrec_candidates_sum 32.0",
        'trackrec_answers_total{by="reccot"} 1.0',
        'trackrec_texts_total{source="reccot"} 1.0',
        "trackrec_text_age_seconds_count 1.0",
        "trackrec_unknown_items_total 2.0",
        "trackrec_unknown_users_total 1.0",
        "trackrec_events_total 1.0",
        'trackrec_p_bucket{le="+Inf"} 30.0',
        'trackrec_training{input="recent_length",statistic="mean"}',
        f'trackrec_loaded{{generation="gen-bundle",model="{service.loaded.bundle.model_version}"}} 1.0',
    ):
        assert line in found
    service.close()


def test_the_log_holds_no_text_of_users_unless_asked(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for log_texts in (False, True):
        caplog.clear()
        service, _, client = made(world, tmp_path, log_texts=log_texts)
        with client, caplog.at_level("INFO", logger="trackrec.server"):
            answer = client.post(
                "/v1/rank", json={"user_id": "u1", "item_ids": ITEMS}, headers={"x-request-id": "me.1"}
            )
            client.post("/v1/rank", json={"user_id": "u1", "item_ids": 5}, headers={"x-request-id": "not\tone"})
        service.close()
        assert answer.headers["x-request-id"] == "me.1"
        fields = [getattr(record, "trackrec_fields", {}) for record in caplog.records]
        told = next(one for one in fields if one.get("request_id") == "me.1")
        assert (told["route"], told["status"], told["items"]) == ("/v1/rank", 200, 15)
        assert ("likes films" in json.dumps(fields)) is log_texts
        assert ('"u1"' in json.dumps(fields)) is log_texts


def test_openapi_names_every_route_with_examples(client: TestClient) -> None:
    found = client.get("/openapi.json").json()
    for path in ("/v1/rank", "/v1/score", "/v1/events", "/v2/models/trackrec/infer", "/readyz", "/admin/reload"):
        assert path in found["paths"]
    for name in ("RankRequest", "ScoreRequest", "EventsRequest"):
        assert found["components"]["schemas"][name]["examples"]
    assert "RankAnswer" in found["components"]["schemas"]
    problem(client.get("/nothing"), 404)
    problem(client.get("/v1/rank"), 405)


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["u1", "i1"])
_BODIES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=4)
)
_ID = st.text(st.characters(), max_size=30) | st.sampled_from(["u1", "i1"])
_NEAR = st.fixed_dictionaries(
    {"user_id": _ID | _LEAVES, "item_ids": st.lists(_ID | _LEAVES, max_size=9)},
    optional={"top_k": st.integers() | _LEAVES, "explain": _LEAVES, "use_text": st.booleans()},
)
_EVENT = st.fixed_dictionaries(
    {"user_id": _ID, "item_id": _ID}, optional={"rating": st.floats() | _LEAVES, "time": st.integers() | _LEAVES}
)
_ROWS = st.fixed_dictionaries({"rows": st.lists(st.fixed_dictionaries({"user_id": _ID, "item_id": _ID}), max_size=5)})
_PATHS = st.sampled_from(["/v1/rank", "/v1/score", "/v1/events", "/v2/models/trackrec/infer"])


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=_PATHS, body=_BODIES | _NEAR | _ROWS | st.fixed_dictionaries({"events": st.lists(_EVENT, max_size=3)}))
def test_no_body_is_answered_with_500(client: TestClient, path: str, body: object) -> None:
    answer = client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    if answer.status_code != 200:
        assert answer.status_code in (400, 422)
        problem(answer, answer.status_code)
    elif path == "/v1/rank":
        schemas.RankAnswer.model_validate_json(answer.content, strict=True)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=_PATHS, body=st.binary(max_size=200))
def test_no_bytes_are_answered_with_500(client: TestClient, path: str, body: bytes) -> None:
    answer = client.post(path, content=body, headers={"content-type": "application/json"})
    problem(answer, answer.status_code)
    assert answer.status_code in (400, 422)
