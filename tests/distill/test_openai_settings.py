"""OpenAITeacher's money, its key and its settings."""

from __future__ import annotations

import copy
import re
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from chat_server import KEY, WORDS, ChatServer, fails, good, grep, kept, requests, teacher
from hypothesis import given, settings
from hypothesis import strategies as st

from trackrec.distill.answers import ANSWERS
from trackrec.distill.openai_teacher import OpenAITeacher
from trackrec.distill.teacher import TeacherError
from trackrec.distill.texts import write_teacher_texts
from trackrec.pipeline.pipeline import Pipeline
from trackrec.pipeline.stage import Stage

pytest.importorskip("openai", reason="OpenAITeacher needs the teacher extra")
pytestmark = pytest.mark.usefixtures("quick")

# -- money -----------------------------------------------------------------------------------------------------------


def test_max_cost_stops_before_it_is_passed_and_a_higher_one_goes_on(serve, tmp_path):
    """An answer costs 110 tokens at 1000 per million, 0.11; one request reserves its bytes + 64 + 512 tokens."""
    server = serve([good()])
    prices = {"price_in": 1000.0, "price_out": 1000.0}
    most = (len("".join(requests(1)[0].segments(WORDS)).encode()) + 64 + 512) / 1000
    limit = 5 * 0.11 + most + 1e-6
    message = (
        rf"max_cost is [\d.]+: the answers so far cost 0\.66, and the next could cost {most:.4g}\. 6 of 10 answers"
    )
    with pytest.raises(TeacherError, match=message + r".*Raise teacher\.init_args\.max_cost and run again"):
        teacher(server, max_cost=limit, **prices).write(requests(10), WORDS, tmp_path)
    assert server.asked.total() == len(kept(tmp_path)) == 6
    with pytest.raises(TeacherError, match="6 of 10 answers"):  # kept answers count: a rerun doesn't spend it twice
        teacher(server, max_cost=limit, **prices).write(requests(10), WORDS, tmp_path)
    assert server.asked.total() == 6
    made = teacher(server, max_cost=10.0, **prices).write(requests(10), WORDS, tmp_path)
    assert server.asked.total() == 10
    assert made.counts["cost"] == 1.1
    assert made.texts == [f"Likes Film{i}." for i in range(10)]


@settings(max_examples=10, deadline=None, database=None)
@given(st.floats(0.5, 3.0), st.integers(1, 8))
def test_no_number_of_threads_passes_max_cost(tmp_path_factory, limit, concurrency):
    out_dir = tmp_path_factory.mktemp("cost")
    server = ChatServer(lambda name, turn: good())
    try:
        asking = teacher(server, max_cost=limit, price_in=1000.0, price_out=1000.0, concurrency=concurrency)
        try:
            asking.write(requests(15), WORDS, out_dir)
        except TeacherError as error:
            assert "max_cost" in str(error)  # noqa: PT017
        assert server.asked.total() * 0.11 <= limit + 1e-9
        assert server.asked.total() == len(kept(out_dir))
    finally:
        server.stop()


def test_without_prices_the_cost_is_unknown(serve, tmp_path):
    assert teacher(serve([good()])).write(requests(1), WORDS, tmp_path).counts["cost"] is None


# -- in the pipeline -------------------------------------------------------------------------------------------------


def test_a_changed_config_takes_the_answers_over(serve, tmp_path, tiny_book):
    """A higher max_cost is another fingerprint, so another directory; money spent is not spent again."""
    histories = {f"h{i}" for i in range(6)}
    server = serve(lambda name, turn: good())

    def run(**changes: Any) -> dict[str, Any]:
        config = {"teacher": {"fraction": 1.0, "price_in": 1000.0, "price_out": 1000.0} | changes}
        pipeline = Pipeline(tmp_path, config, seed=0, say=lambda text: None)
        asking = teacher(server, **config["teacher"])

        def stage(out_dir: Path) -> dict[str, Any]:
            return write_teacher_texts(asking, book, sorted(histories), out_dir, seed=0)

        pipeline.add(Stage("teacher", ("teacher",), (), "trackrec.distill.texts", stage))
        pipeline.run()
        return pipeline.manifest("teacher").notes

    book = _named(tiny_book)
    with pytest.raises(TeacherError, match=r"[1-5] of 6 answers are kept"):
        run(max_cost=0.9)
    before = server.asked.total()
    assert 1 <= before < 6
    notes = run(max_cost=20.0)
    assert server.asked.total() == 6
    assert (notes["answers_kept"], notes["requests"], notes["cost"]) == (before, 6 - before, 0.66)
    notes = run(max_cost=20.0, concurrency=2)  # done, then changed once more: taken over from the finished stage
    assert server.asked.total() == 6
    assert notes["answers_kept"] == 6
    assert (tmp_path / "teacher" / ANSWERS).is_file()
    assert notes["unsupported_share"] is None
    rows = pl.read_parquet(tmp_path / "teacher" / "reccots")
    assert set(rows["history_id"]) == histories
    assert not grep(tmp_path, KEY)


def _named(book: Any) -> Any:
    """A book whose prompts begin with a film of one word, as the scripted server wants them."""
    book = copy.copy(book)  # the fixture serves the whole session
    book.reccot_prompt = lambda key: [f"Film{key[1:]} of the day"]
    return book


# -- keys and settings -----------------------------------------------------------------------------------------------


def test_the_key_reaches_no_file(serve, tmp_path):
    server = serve([good()])
    teacher(server).write(requests(3), WORDS, tmp_path)
    assert server.keys == {f"Bearer {KEY}"}
    assert (tmp_path / ANSWERS).is_file()
    assert not grep(tmp_path, KEY)
    assert KEY not in repr(vars(teacher(server)))


def test_a_missing_key_is_named(monkeypatch, tmp_path):
    with pytest.raises(TeacherError, match=r"environment variable MY_KEY holds no key.*teacher\.init_args\.base_url"):
        OpenAITeacher("m", api_key_env="MY_KEY").write(requests(1), WORDS, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_server_of_ones_own_needs_no_key(serve, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    server = serve([fails(500, message="none of it works"), good()])
    assert teacher(server).write(requests(1), WORDS, tmp_path).texts == ["Likes Film0."]
    assert server.keys == {"Bearer none"}


def test_without_the_package_the_extra_is_named(serve, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ImportError, match=re.escape("pip install trackrec[teacher]")):
        teacher("http://127.0.0.1:9/v1").write(requests(1), WORDS, tmp_path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"fraction": 0.0}, r"fraction must be in \(0, 1\], got 0\.0"),
        ({"concurrency": 0}, r"teacher\.init_args\.concurrency must be at least 1, got 0"),
        ({"max_retries": -1}, r"teacher\.init_args\.max_retries must be at least 0, got -1"),
        ({"max_new_tokens": 0}, r"teacher\.init_args\.max_new_tokens must be at least 1, got 0"),
        ({"timeout_s": 0.0}, r"teacher\.init_args\.timeout_s must be above 0, got 0\.0"),
        ({"timeout_s": float("nan")}, "got nan"),
        ({"temperature": -1.0}, r"teacher\.init_args\.temperature must be at least 0, got -1\.0"),
        ({"price_in": -1.0}, r"teacher\.init_args\.price_in must be at least 0, got -1\.0"),
        ({"max_cost": 0.0, "price_in": 1.0, "price_out": 1.0}, r"max_cost must be above 0, got 0\.0"),
        ({"max_cost": 1.0, "price_in": 1.0}, r"max_cost is 1\.0, but without.*price_in and price_out"),
        ({"base_url": "localhost:8000"}, r"base_url must begin with http:// or https://, got 'localhost:8000'"),
        ({"base_url": "http://me:secret@host/v1"}, r"base_url holds a user name or password.*api_key_env"),
    ],
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=message) as caught:
        OpenAITeacher("m", **setting)
    assert "secret" not in str(caught.value)
