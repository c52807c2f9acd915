"""`trackrec generations`: list, verify, go back, remove."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trackrec.storage.generations import (
    current_name,
    finish_generation,
    finished_generations,
    open_generation,
    part_name,
    set_current,
    write_texts,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three generations of one user each; the last is current."""
    root = tmp_path / "gens"
    for number in (1, 2, 3):
        path = root / f"gen-{number}"
        row = {"user_id": "u", "text": str(number), "vector": None, "prompt_hash": "h", "n_ratings": 1, "newest": 0}
        row |= {"tier": "full", "generator": "g", "encoder": "", "made_at": number, "status": "written"}
        write_texts(path / part_name("full", 0), [row], {"written": 1})
        info = {"name": path.name, "made_at": number * 1000, "buckets": 1, "tiers": {"full": {}}}
        finish_generation(path, info | {"written": {"written": 1}})
        set_current(root, path.name)
    return root


def test_the_list_marks_the_current_one(folder: Path, trackrec: Callable[..., str]) -> None:
    lines = trackrec("generations", "--folder", str(folder), "--verify").splitlines()
    assert lines[0] == "3 generations are as they were written"
    assert [line[:7] for line in lines[1:]] == ["  gen-1", "  gen-2", "* gen-3"]


def test_going_back_and_removing_keeps_the_current_one(folder: Path, trackrec: Callable[..., str]) -> None:
    trackrec("generations", "--folder", str(folder), "--current", "gen-1")
    assert open_generation(folder).name == current_name(folder) == "gen-1"
    said = trackrec("generations", "--folder", str(folder), "--keep", "1")
    assert "removed gen-2" in said
    assert [one.name for one in finished_generations(folder)] == ["gen-1", "gen-3"]


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("--current", "gen-9"), "--current 'gen-9' isn't there. There are gen-1, gen-2, gen-3."),
        (("--keep", "0"), "--keep must be at least 1, got 0."),
    ],
)
def test_mistakes_are_named(
    folder: Path,
    trackrec: Callable[..., str],
    capfd: pytest.CaptureFixture[str],
    args: tuple[str, ...],
    text: str,
) -> None:
    with pytest.raises(SystemExit):
        trackrec("generations", "--folder", str(folder), *args)
    assert text in capfd.readouterr().err


def test_a_changed_part_and_an_empty_folder_are_named(
    folder: Path, tmp_path: Path, trackrec: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    part = open_generation(folder).parts()[0]
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(SystemExit):
        trackrec("generations", "--folder", str(folder), "--verify")
    assert "isn't what was written (its sha256 differs)" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        trackrec("generations", "--folder", str(tmp_path / "none"))
    assert "holds no generation" in capfd.readouterr().err
