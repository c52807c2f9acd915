"""OpenAITeacher against a server that misbehaves: nothing asked twice, nothing lost, no key anywhere."""

from __future__ import annotations

import threading
from email.utils import formatdate
from typing import Any

import pytest
from chat_server import (
    KEY,
    WORDS,
    ChatServer,
    after,
    drops,
    echoes_key,
    fails,
    good,
    kept,
    raw,
    requests,
    teacher,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from trackrec.distill import chat_client
from trackrec.distill.answers import ANSWERS
from trackrec.distill.openai_teacher import OpenAITeacher
from trackrec.distill.teacher import TeacherError, TeacherRequest
from trackrec.prompts.settings import PromptSettings
from trackrec.prompts.templates import history_segment, reccot_segments

pytest.importorskip("openai", reason="OpenAITeacher needs the teacher extra")
pytestmark = pytest.mark.usefixtures("quick")

SLOW_S = 4.0


# -- bad moments ----------------------------------------------------------------------------------------------------

MOMENTS = {
    "Film0": [fails(429, Retry_After="0.2"), good()],
    "Film1": [fails(500), fails(503), good()],
    "Film2": [drops, good()],
    "Film3": [after(SLOW_S, good()), good()],
    "Film4": [good("I can't.", "content_filter")],
    "Film5": [good(None, refusal="I won't help with that.")],
    "Film6": [good("  ")],
    "Film7": [good("Likes long", "length")],
    "Film8": [raw(b'{"choices": null}'), good()],
    "Film9": [raw(b'{"choices": [{'), good()],
    "Film10": [raw(b"<html>busy</html>", Content_Type="text/html"), good()],
    "Film11": [fails(400, "content_filter")],
    "Film12": [good(usage=False)],
    "Film13": [good("Lone \ud800 half")],
}


def test_every_bad_moment_is_survived_and_counted(serve, tmp_path):
    server = serve(lambda name, turn: MOMENTS.get(name, [good()])[turn])
    made = teacher(server, timeout_s=SLOW_S / 2, price_in=2.0, price_out=5.0).write(requests(20), WORDS, tmp_path)
    assert server.asked == {f"Film{i}": len(MOMENTS.get(f"Film{i}", [0])) for i in range(20)}
    none = {4, 5, 6, 11}
    special = {7: "Likes long", 13: "Lone ? half"}
    assert made.texts == [None if i in none else special.get(i, f"Likes Film{i}.") for i in range(20)]
    assert made.cut == {"h7"}
    answered, bound = 18, len("".join(requests(13)[12].segments(WORDS)).encode()) + 64
    tokens = {"prompt_tokens": 100 * answered + bound, "completion_tokens": 10 * answered + 512}
    cost = round((tokens["prompt_tokens"] * 2 + tokens["completion_tokens"] * 5) / 1e6, 6)
    counted = {"requests": 28, "retries": 8, "refused": 3, "empty": 1, "cut": 1, "without_usage": 1, "answers_kept": 0}
    assert made.counts == {**counted, **tokens, "cost": cost}
    first, second = server.times["Film0"]
    assert second - first >= 0.2  # Retry-After, not the back-off of 0.01 s

    again = teacher(server, timeout_s=SLOW_S / 2, price_in=2.0, price_out=5.0).write(requests(20), WORDS, tmp_path)
    assert server.asked.total() == 28
    assert again.texts == made.texts
    assert again.counts == {**made.counts, "requests": 0, "retries": 0, "answers_kept": 20}


def test_the_prompt_is_the_books_and_the_settings_arrive(serve, tmp_path):
    server = serve([good()])
    (one,) = requests(1)
    teacher(server, temperature=0.3, max_new_tokens=77).write([one], WORDS, tmp_path)
    prompt = "".join(reccot_segments(history_segment(one.history, WORDS), WORDS))
    message = [{"role": "user", "content": prompt}]
    told = {"path": "/v1/chat/completions", "messages": message, "model": "m", "max_tokens": 77, "temperature": 0.3}
    assert server.bodies == [told]
    assert server.keys == {f"Bearer {KEY}"}
    asked = one._replace(prompt=["Film9 is known of", " this viewer"])
    teacher(server, temperature=None).write([asked], WORDS, tmp_path)
    assert server.bodies[1]["messages"][0]["content"] == "Film9 is known of this viewer"
    assert "temperature" not in server.bodies[1]


def test_openai_itself_gets_the_name_that_its_models_accept():
    assert OpenAITeacher("m")._options() == {"model": "m", "max_completion_tokens": 512, "temperature": 0.7}
    with OpenAITeacher("m")._connect(KEY) as client:
        assert str(client.base_url) == "https://api.openai.com/v1/"


def test_the_environment_does_not_redirect(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere/v1")
    with OpenAITeacher("m")._connect(KEY) as client:
        assert "elsewhere" not in str(client.base_url)


def test_requests_run_side_by_side_up_to_the_limit(serve, tmp_path):
    server = serve([after(0.3, good())])
    teacher(server, concurrency=3).write(requests(9), WORDS, tmp_path)
    assert server.most_busy == 3


def test_nobody_is_asked_about_an_empty_history(serve, tmp_path):
    server = serve([good()])
    asked = [TeacherRequest("h9", "u9", []), *requests(1)]
    assert teacher(server).write(asked, WORDS, tmp_path).texts == [None, "Likes Film0."]
    assert server.asked.total() == 1


# -- the end of the run ----------------------------------------------------------------------------------------------


def test_a_server_that_dies_in_the_middle_and_comes_back(serve, tmp_path):
    server = serve(lambda name, turn: good() if int(name[4:]) < 5 else fails(500))
    with pytest.raises(
        TeacherError, match=r"no answer after 3 tries.*HTTP 500.*Run again: only the missing answers are requested"
    ):
        teacher(server, concurrency=1, max_retries=2).write(requests(12), WORDS, tmp_path)
    assert kept(tmp_path) == {f"h{i}" for i in range(5)}
    assert server.asked == {f"Film{i}": 1 if i < 5 else 3 for i in range(6)}
    port = server.server_address[1]
    server.stop()
    with pytest.raises(TeacherError, match=r"no answer after 2 tries.*APIConnectionError.*5 of 12 answers are kept"):
        teacher(server, max_retries=1).write(requests(12), WORDS, tmp_path)
    back = serve([good()], port)
    made = teacher(back).write(requests(12), WORDS, tmp_path)
    assert back.asked == {f"Film{i}": 1 for i in range(5, 12)}
    assert made.texts == [f"Likes Film{i}." for i in range(12)]
    assert made.counts["answers_kept"] == 5


def test_answers_in_flight_are_kept_when_another_request_fails(serve, tmp_path):
    all_four, failed = threading.Barrier(4), threading.Event()

    def script(name: str, turn: int) -> Any:
        all_four.wait(10)
        if name == "Film0":
            failed.set()
            return fails(403)
        failed.wait(10)
        return after(0.5, good())

    server = serve(script)
    with pytest.raises(TeacherError, match="HTTP 403"):
        teacher(server, concurrency=4).write(requests(20), WORDS, tmp_path)
    assert kept(tmp_path) == {"h1", "h2", "h3"}
    assert server.asked == {f"Film{i}": 1 for i in range(4)}


@settings(max_examples=15, deadline=None, database=None)
@given(st.data())
def test_a_file_torn_anywhere_costs_at_most_its_last_answer(tmp_path_factory, data):
    out_dir = tmp_path_factory.mktemp("torn")
    server = ChatServer(lambda name, turn: good())
    try:
        teacher(server, concurrency=1).write(requests(4), WORDS, out_dir)
        path = out_dir / ANSWERS
        whole = path.read_bytes()
        size = data.draw(st.integers(0, len(whole)))
        path.write_bytes(whole[:size])
        standing = sum(line == torn for line, torn in zip(whole.splitlines(), whole[:size].splitlines(), strict=False))
        server.asked.clear()
        made = teacher(server, concurrency=1).write(requests(4), WORDS, out_dir)
        assert server.asked.total() == 4 - standing
        assert made.texts == [f"Likes Film{i}." for i in range(4)]
        server.asked.clear()
        teacher(server).write(requests(4), WORDS, out_dir)
        assert server.asked.total() == 0
    finally:
        server.stop()


@pytest.mark.parametrize(
    "change", [{"model": "other"}, {"temperature": 0.0}, {"max_new_tokens": 9}, {"words": PromptSettings(max_words=50)}]
)
def test_whatever_changes_the_answer_is_asked_anew(serve, tmp_path, change):
    server = serve([good()])
    teacher(server).write(requests(2), WORDS, tmp_path)
    settings = {key: value for key, value in change.items() if key != "words"}
    teacher(server, **settings).write(requests(2), change.get("words", WORDS), tmp_path)
    assert server.asked == {"Film0": 2, "Film1": 2}


@pytest.mark.parametrize("change", [{"concurrency": 1}, {"timeout_s": 9.0}, {"price_in": 1.0}, {"fraction": 1.0}])
def test_whatever_does_not_change_it_is_not(serve, tmp_path, change):
    server = serve([good()])
    teacher(server).write(requests(2), WORDS, tmp_path)
    teacher(server, **change).write(requests(2), WORDS, tmp_path)
    assert server.asked.total() == 2


def test_a_long_pause_ends_the_run_at_once(serve, tmp_path):
    server = serve([fails(429, Retry_After="86400")])
    with pytest.raises(TeacherError, match="asks for a pause of 86,400 s"):
        teacher(server, concurrency=1).write(requests(3), WORDS, tmp_path)
    assert server.asked.total() == 1


@pytest.mark.parametrize(
    ("play", "message"),
    [
        (fails(429, "insufficient_quota"), "HTTP 429"),
        (fails(400), r"HTTP 400.*teacher\.init_args\.temperature to null"),
        (fails(404), r"HTTP 404.*Check teacher\.init_args\.model and teacher\.init_args\.base_url"),
        (echoes_key, r"HTTP 401.*teacher\.init_args\.api_key_env"),
    ],
)
def test_what_no_retry_can_help_is_asked_once(serve, tmp_path, play, message):
    server = serve([play])
    with pytest.raises(TeacherError, match=message) as caught:
        teacher(server, concurrency=1).write(requests(3), WORDS, tmp_path)
    assert server.asked.total() == 1
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("headers", "low", "high"),
    [
        ({}, None, None),
        ({"retry-after": "7"}, 7, 7),
        ({"retry-after": "-3"}, 0, 0),
        ({"retry-after": "soon"}, None, None),
        ({"retry-after": "7", "retry-after-ms": "1500"}, 1.5, 1.5),
        ({"retry-after": formatdate(usegmt=True, timeval=4102444800.0)}, 1e8, 1e10),
        ({"retry-after": formatdate(usegmt=True, timeval=0)}, 0, 0),
    ],
)
def test_retry_after_in_all_its_forms(headers, low, high):
    wait = chat_client.retry_after(headers)
    assert wait is None if low is None else low <= wait <= high
