"""Stores in a file and in Redis hold a generation and the users' states, and refuse what is damaged."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from tests.store.conftest import RedisServer
from tests.store.made_store import MADE_AT, USERS, made_states, make_generation, text_row, vector_of
from trackrec.store.build import States, build_sqlite
from trackrec.store.errors import StoreAwayError, StoreError
from trackrec.store.redis_store import CURRENT, RedisStore, build_redis
from trackrec.store.sqlite_store import SQLiteStore
from trackrec.store.store import Store, open_store


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Path:
    path = tmp_path / "store.sqlite"
    build_sqlite(make_generation(tmp_path / "gens"), made_states(), path)
    return path


def check_whole(store: Store) -> None:
    assert (store.info.generation, store.info.bundle) == ("gen-a", "bundle-digest")
    assert (store.info.texts, store.info.states, store.info.dim) == (len(USERS), len(USERS), 4)
    records = store.get_many([*USERS, "nobody"])
    for number, user in enumerate(USERS):
        record, row = store.get(user), text_row(user, number)
        assert record.text is not None
        assert record.state is not None
        assert record.text.text == row["text"]
        assert record.text.made_at == MADE_AT + number
        assert (record.text.status, record.text.n_ratings) == (row["status"], 5 + number)
        if row["vector"] is None:
            assert record.text.vector is None
        else:
            assert record.text.vector is not None
            np.testing.assert_array_equal(record.text.vector, row["vector"])
        assert record.state.packed == f"state of {user}".encode()
        due = vector_of(number)
        assert (record.state.vector is None) == (due is None)
        if due is not None:
            np.testing.assert_array_equal(record.state.vector, due)
        many = records[number]
        assert many.state is not None
        assert many.state.packed == record.state.packed
        assert many.text is not None
        assert many.text.text == record.text.text
    assert store.get("nobody") == records[-1] == (None, None)
    assert set(store.some_users(100)) == set(USERS)
    assert len(store.some_users(2)) == 2
    store.verify()


def test_a_file_holds_the_generation_and_the_states(sqlite_file: Path) -> None:
    check_whole(open_store(str(sqlite_file)))
    assert [path.name for path in sqlite_file.parent.iterdir() if path.name.startswith(".")] == []


def test_a_store_of_texts_or_of_states_alone(tmp_path: Path) -> None:
    generation = make_generation(tmp_path / "gens")
    build_sqlite(generation, None, tmp_path / "texts")
    build_sqlite(None, made_states(), tmp_path / "states")
    texts, states = SQLiteStore(tmp_path / "texts"), SQLiteStore(tmp_path / "states")
    assert texts.get("u2").state is None
    assert texts.get("u2").text is not None
    assert states.get("u2").text is None
    assert states.get("u2").state is not None
    assert set(states.some_users(99)) == set(USERS)
    with pytest.raises(StoreError, match="--generation, --bundle, or both"):
        build_sqlite(None, None, tmp_path / "nothing")


def test_a_user_who_repeats_is_refused_and_the_old_file_stays(sqlite_file: Path) -> None:
    before = sqlite_file.read_bytes()
    twice = States("b", iter([*made_states().rows, *made_states().rows]))
    with pytest.raises(StoreError, match="repeats"):
        build_sqlite(None, twice, sqlite_file)
    assert sqlite_file.read_bytes() == before
    assert len(list(sqlite_file.parent.glob(".*"))) == 0


def test_a_build_that_dies_leaves_the_old_file(sqlite_file: Path) -> None:
    before = sqlite_file.read_bytes()

    def dying():  # type: ignore[no-untyped-def]
        yield from made_states().rows
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_sqlite(None, States("b", dying()), sqlite_file)
    assert sqlite_file.read_bytes() == before
    assert len(list(sqlite_file.parent.glob(".*"))) == 0


def test_an_open_store_outlives_the_next_build(sqlite_file: Path) -> None:
    old = SQLiteStore(sqlite_file)
    build_sqlite(None, made_states(users=["other"]), sqlite_file)
    check_whole(old)
    assert SQLiteStore(sqlite_file).get("u1").text is None


@pytest.mark.parametrize("place", [0.25, 0.5, 0.75, 0.95])
def test_a_changed_byte_is_found(sqlite_file: Path, place: float) -> None:
    damaged = bytearray(sqlite_file.read_bytes())
    start = int(len(damaged) * place)
    used = next(offset for offset in range(start, 100, -1) if damaged[offset] not in (0, 0xFF))
    damaged[used] ^= 0x55
    sqlite_file.write_bytes(damaged)
    with pytest.raises(StoreError, match=r"store\.sqlite"):
        SQLiteStore(sqlite_file).verify()


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 99, b"SQLite format 3\0" + b"\1" * 5000])
def test_what_is_no_store_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(StoreError, match="file"):
        SQLiteStore(tmp_path / "file")


def test_a_cut_missing_or_foreign_file_is_refused(sqlite_file: Path) -> None:
    whole = sqlite_file.read_bytes()
    with pytest.raises(StoreError, match="trackrec store build"):
        SQLiteStore(sqlite_file.with_name("missing"))
    sqlite_file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError):
        SQLiteStore(sqlite_file).verify()
    other = sqlite_file.with_name("other")
    db = sqlite3.connect(other)
    db.execute("CREATE TABLE meta (key, value)")
    db.commit()
    db.close()
    with pytest.raises(StoreError, match="no store of trackrec"):
        SQLiteStore(other)


def test_another_format_is_refused(sqlite_file: Path) -> None:
    db = sqlite3.connect(sqlite_file)
    info = json.loads(db.execute("SELECT value FROM meta").fetchone()[0])
    db.execute("UPDATE meta SET value = ?", (json.dumps({**info, "format": 99}),))
    db.commit()
    db.close()
    with pytest.raises(StoreError, match="format 99, this trackrec reads 1"):
        SQLiteStore(sqlite_file)


def test_redis_holds_the_same(redis_server: RedisServer, tmp_path: Path, sqlite_file: Path) -> None:
    info = build_redis(make_generation(tmp_path / "gens"), made_states(), redis_server.place)
    store = open_store(redis_server.place)
    check_whole(store)
    assert info.digest == SQLiteStore(sqlite_file).info.digest


def test_redis_keeps_the_store_that_is_read_and_drops_older_ones(redis_server: RedisServer, tmp_path: Path) -> None:
    build_redis(make_generation(tmp_path / "gens"), made_states(), redis_server.place)
    first = RedisStore(redis_server.place)
    build_redis(None, made_states(["second"]), redis_server.place)
    check_whole(first)
    assert RedisStore(redis_server.place).some_users(9) == ["second"]
    build_redis(None, made_states(["third"]), redis_server.place)
    assert first.get("u1") == (None, None)
    with pytest.raises(StoreError, match="isn't what was written"):
        first.verify()


def test_a_failed_redis_build_leaves_the_pointer_and_no_keys(redis_server: RedisServer, tmp_path: Path) -> None:
    build_redis(make_generation(tmp_path / "gens"), made_states(), redis_server.place)
    store = RedisStore(redis_server.place)
    keys = store._redis.dbsize()
    twice = States("b", iter([*made_states().rows, *made_states().rows]))
    with pytest.raises(StoreError, match="repeats"):
        build_redis(None, twice, redis_server.place)
    assert store._redis.get(CURRENT).decode() == store.name
    assert store._redis.dbsize() == keys


def test_redis_gone_and_back(redis_server: RedisServer, tmp_path: Path) -> None:
    build_redis(make_generation(tmp_path / "gens"), made_states(), redis_server.place)
    store = RedisStore(redis_server.place)
    redis_server.stop()
    with pytest.raises(StoreAwayError, match="can't be reached"):
        store.get("u1")
    redis_server.start()
    check_whole(store)


def test_an_empty_or_absent_redis(redis_server: RedisServer) -> None:
    with pytest.raises(StoreError, match="no store there"):
        RedisStore(redis_server.place)
    with pytest.raises(StoreAwayError):
        RedisStore("redis://user:secret@127.0.0.1:1/0")
    with pytest.raises(StoreAwayError) as raised:
        RedisStore("redis://user:secret@127.0.0.1:1/0")
    assert "secret" not in str(raised.value)
