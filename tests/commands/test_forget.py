"""`trackrec forget`: a user is gone from generations and events; the others stay as they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from tiny import frame

from trackrec.storage.generations import (
    bucket_of,
    finish_generation,
    finished_generations,
    open_generation,
    part_name,
    set_current,
    write_texts,
)
from trackrec.storage.parts import write_part
from trackrec.store.events import Event, SQLiteEvents

USERS = [f"u{number}" for number in range(9)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two generations of nine users; the first lacks u8."""
    root = tmp_path / "gens"
    for number, users in ((1, USERS[:8]), (2, USERS)):
        path = root / f"gen-{number}"
        for bucket in range(4):
            rows = [text(user, number) for user in users if bucket_of(user, 4) == bucket]
            write_texts(path / part_name("full", bucket), rows, {"written": len(rows)})
        info = {"name": path.name, "made_at": number, "buckets": 4, "tiers": {"full": {}}, "written": {"written": 1}}
        finish_generation(path, info)
        set_current(root, path.name)
    return root


def text(user: str, made_at: int) -> dict[str, object]:
    row = {"user_id": user, "text": f"of {user}", "vector": [1.0], "prompt_hash": "h", "n_ratings": 1, "newest": 0}
    return row | {"tier": "full", "generator": "g", "encoder": "e", "made_at": made_at, "status": "written"}


def test_the_user_is_gone_and_the_others_rows_are_the_same(folder: Path, trackrec: Callable[..., str]) -> None:
    before = pl.concat(list(open_generation(folder).iter_frames()))
    said = trackrec("forget", "--user", "u3", "--folder", str(folder))
    (left,) = finished_generations(folder)
    left.verify()
    rows = pl.concat(list(left.iter_frames()))
    assert rows.equals(before.filter(pl.col("user_id") != "u3"))
    assert open_generation(folder).name == left.name
    assert left.info["users"] == 8
    assert "removed gen-1" in said
    assert "removed gen-2" in said
    assert not [path for path in folder.rglob("*") if path.is_file() and b"of u3" in path.read_bytes()]


def test_generations_without_the_user_stay(folder: Path, trackrec: Callable[..., str]) -> None:
    trackrec("forget", "--user", "u8", "--folder", str(folder))
    names = [generation.name for generation in finished_generations(folder)]
    assert names[0] == "gen-1"
    assert len(names) == 2
    assert names[1].startswith("gen-2-")
    assert "no generation" in trackrec("forget", "--user", "u8", "--folder", str(folder))
    assert [generation.name for generation in finished_generations(folder)] == names


def test_events_are_removed_and_runs_are_named(folder: Path, tmp_path: Path, trackrec: Callable[..., str]) -> None:
    log = SQLiteEvents(tmp_path / "events.sqlite")
    log.append([Event("u3", "i1", 5.0, 10), Event("u3", "i2", 4.0, 11), Event("u4", "i1", 1.0, 12)])
    log.close()
    for name, user in (("with", "u3"), ("without", "u4")):
        rows = [{"user_id": user, "item_id": "i1", "rating": 5.0, "timestamp": 1, "row": 0}]
        write_part(tmp_path / "runs" / name / "data", "interactions", frame("interactions", rows))
    words = ["--events", str(tmp_path / "events.sqlite"), "--runs", str(tmp_path / "runs")]
    said = trackrec("forget", "--user", "u3", "--folder", str(folder), *words)
    assert "2 events removed" in said
    assert f"{tmp_path / 'runs' / 'with'} holds the user" in said
    assert str(tmp_path / "runs" / "without") not in said
    log = SQLiteEvents(tmp_path / "events.sqlite")
    assert [event.item for event in log.newest("u4", 5)] == ["i1"]
    assert log.newest("u3", 5) == []
    log.close()


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("--folder", "{tmp}/none"), "holds no generation"),
        (("--folder", "{tmp}/gens", "--events", "{tmp}/none"), "--events"),
    ],
)
def test_mistakes_are_named_before_anything_is_removed(
    folder: Path,
    tmp_path: Path,
    trackrec: Callable[..., str],
    capfd: pytest.CaptureFixture[str],
    args: tuple[str, ...],
    text: str,
) -> None:
    with pytest.raises(SystemExit):
        trackrec("forget", "--user", "u3", *(word.format(tmp=tmp_path) for word in args))
    assert text in capfd.readouterr().err
    assert len(finished_generations(folder)) == 2


def test_a_refresh_that_is_half_done_is_an_error(
    folder: Path, trackrec: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / ".partial" / "gen-3").mkdir(parents=True)
    with pytest.raises(SystemExit):
        trackrec("forget", "--user", "u3", "--folder", str(folder))
    assert "a refresh is half done" in capfd.readouterr().err
    assert len(finished_generations(folder)) == 2
