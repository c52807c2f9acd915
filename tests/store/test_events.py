"""Events are on the disk once they are acknowledged, and the user's next request reads them."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.store.conftest import RedisServer
from trackrec.store.errors import StoreAwayError, StoreError
from trackrec.store.events import Event, EventLog, SQLiteEvents
from trackrec.store.redis_events import RedisEvents

_WRITER = """
import sys
from pathlib import Path
from trackrec.store.events import Event, SQLiteEvents
log, number = SQLiteEvents(Path(sys.argv[1])), int(sys.argv[2])
while True:
    log.append([Event("u", f"i{number}", 1.0, number)])
    print(number, flush=True)
    number += 1
"""


def check_log(log: EventLog) -> None:
    assert log.newest("u", 3) == []
    log.append([Event("u", f"i{time}", None if time == 2 else time / 2, time) for time in (1, 2, 3, 4)])
    log.append([Event("other", "x", 1.0, 9), Event("😀", "ü", 1.0, 9)])
    assert log.newest("u", 3) == [Event("u", "i2", None, 2), Event("u", "i3", 1.5, 3), Event("u", "i4", 2.0, 4)]
    log.append([Event("u", "i4", 5.0, 4)])
    assert log.newest("u", 1) == [Event("u", "i4", 5.0, 4)]
    assert len(log.newest("u", 100)) == 4
    log.append([Event("u", "late", 3.0, 0)])
    assert log.newest("u", 100)[0].item == "late"
    assert log.newest("😀", 1) == [Event("😀", "ü", 1.0, 9)]
    assert log.forget("u") >= 5
    assert log.newest("u", 3) == []
    assert log.count() == 2
    assert log.forget("nobody") == 0


def test_a_file_of_events(tmp_path: Path) -> None:
    log = SQLiteEvents(tmp_path / "new" / "events.sqlite")
    check_log(log)
    again = SQLiteEvents(log.path)
    assert again.newest("other", 1) == [Event("other", "x", 1.0, 9)]
    log.close()
    again.close()


def test_streams_of_events(redis_server: RedisServer) -> None:
    log = RedisEvents(redis_server.place)
    assert log.is_durable()
    check_log(log)
    redis_server.stop()
    with pytest.raises(StoreAwayError):
        log.append([Event("u", "i", 1.0, 1)])
    redis_server.start()
    assert log.newest("other", 1) == [Event("other", "x", 1.0, 9)]


def test_a_group_is_written_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    log = SQLiteEvents(tmp_path / "events.sqlite")
    with pytest.raises(StoreError):
        log.append([Event("u", "i", 1.0, 1), Event("u", None, 1.0, 2)])  # type: ignore[arg-type]
    assert log.count() == 0
    log.append([Event("u", "i", 1.0, 1)])
    assert log.count() == 1


def test_a_full_disk_is_an_error_and_what_was_there_stays(tmp_path: Path) -> None:
    log = SQLiteEvents(tmp_path / "events.sqlite")
    log.append([Event("u", "first", 1.0, 1)])
    pages = log._writer.execute("PRAGMA page_count").fetchone()[0]
    log._writer.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(StoreError, match="full"):
        log.append([Event("u", f"i{time}", 1.0, time) for time in range(2, 9999)])
    assert log.newest("u", 9) == [Event("u", "first", 1.0, 1)]
    log._writer.execute("PRAGMA max_page_count = 1000000")
    log.append([Event("u", "second", 1.0, 2)])
    assert log.count() == 2


def test_a_folder_or_another_file_is_no_log(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="--events"):
        SQLiteEvents(tmp_path)
    (tmp_path / "text").write_text("no database" * 1000)
    with pytest.raises(StoreError, match="--events"):
        SQLiteEvents(tmp_path / "text")


def test_every_append_is_synced(tmp_path: Path) -> None:
    log = SQLiteEvents(tmp_path / "events.sqlite")
    assert log._writer.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert log._writer.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL


def test_a_reader_sees_what_another_thread_appends(tmp_path: Path) -> None:
    log = SQLiteEvents(tmp_path / "events.sqlite")
    writer = threading.Thread(target=lambda: [log.append([Event("u", f"i{n}", 1.0, n)]) for n in range(200)])
    writer.start()
    seen = [len(log.newest("u", 999)) for _ in range(50)]
    writer.join()
    assert seen == sorted(seen)
    assert len(log.newest("u", 999)) == 200


def test_a_forgotten_users_bytes_are_gone(tmp_path: Path) -> None:
    log = SQLiteEvents(tmp_path / "events.sqlite")
    log.append([Event("secret-user", "secret-item", 1.0, 1), Event("u", "i", 1.0, 1)])
    log.forget("secret-user")
    log.close()
    for path in tmp_path.iterdir():
        assert b"secret" not in path.read_bytes()


@pytest.mark.slow
def test_no_acknowledged_event_is_lost_by_a_hundred_kills(tmp_path: Path) -> None:
    """A writer is killed at a random moment a hundred times; what it had printed is in the file, and nothing half."""
    path, draw, acknowledged = tmp_path / "events.sqlite", random.Random(0), 0
    for _ in range(100):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, path, str(acknowledged)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        for _ in range(draw.randrange(1, 40)):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        rest = [line for line in writer.communicate()[0].splitlines(keepends=True) if line.endswith("\n")]
        log = SQLiteEvents(path)
        times = [event.time for event in log.newest("u", 10**6)]
        assert times == list(range(len(times)))
        if rest:
            assert len(times) > int(rest[-1])
        assert len(times) > acknowledged
        acknowledged = len(times)
        log.close()
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    db.close()
