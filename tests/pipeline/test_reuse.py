"""A stage that another run has made is taken over whole, linked where that works, and only if it is the same."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from test_pipeline import CONFIG, pipeline, watched

from trackrec.storage.manifest import read_manifest
from trackrec.storage.parts import read_table as read


def reusing(runs: Path, name: str, config: dict[str, Any] = CONFIG, said: list[str] | None = None) -> list[str]:
    """Run the three stages with what is under ``runs``; returns the names of those that ran."""
    made = pipeline(runs / name, config, said=said)
    made.reuse = runs
    return made.run()


def test_equal_stages_are_taken_and_the_others_run(tmp_path: Path) -> None:
    said: list[str] = []
    assert reusing(tmp_path, "one") == ["a", "one/b", "c"]
    assert reusing(tmp_path, "two", {**CONFIG, "z": 5}, said) == ["c"]
    assert [line.split(" taken from ")[1] for line in said if "taken" in line] == [
        str(tmp_path / "one" / stage) for stage in ("a", "one/b")
    ]
    first, second = (read_manifest(tmp_path / run / "one/b") for run in ("one", "two"))
    assert first == second
    assert reusing(tmp_path, "two", {**CONFIG, "z": 5}) == []  # up to date from now on
    assert not list((tmp_path / "two/.partial").iterdir())


def test_a_single_run_can_be_named(tmp_path: Path) -> None:
    pipeline(tmp_path / "one", CONFIG).run()
    made = pipeline(tmp_path / "two", CONFIG)
    made.reuse = tmp_path / "one"
    assert made.run() == []


def test_another_seed_takes_nothing(tmp_path: Path) -> None:
    reusing(tmp_path, "one")
    made = pipeline(tmp_path / "two", CONFIG, seed=1)
    made.reuse = tmp_path
    assert made.run() == ["a", "one/b", "c"]


def test_what_is_made_again_leaves_the_linked_file_of_the_other_run_alone(tmp_path: Path) -> None:
    """A stage is replaced, never written into: one inode may stand in both runs."""
    reusing(tmp_path, "one")
    reusing(tmp_path, "two")
    ours, other = tmp_path / "two/one/b/out", tmp_path / "one/one/b/out"
    assert ours.samefile(other)
    assert reusing(tmp_path, "two", {**CONFIG, "x": {"y": 7}}) == ["one/b", "c"]
    assert (ours.read_text(), other.read_text()) == ("b7a", "b2a")
    assert reusing(tmp_path, "one") == []


def test_without_links_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    reusing(tmp_path, "one")
    monkeypatch.setattr(os, "link", refuse)
    assert reusing(tmp_path, "two") == []
    assert not (tmp_path / "two/a/out").samefile(tmp_path / "one/a/out")
    assert (tmp_path / "two/a/out").read_text() == "a"


@pytest.mark.parametrize("harm", ["short", "edited", "gone", "torn"])
def test_a_damaged_stage_is_not_taken(harm: str, tmp_path: Path) -> None:
    reusing(tmp_path, "one")
    path = tmp_path / "one/one/b/out"
    if harm == "gone":
        path.unlink()
    elif harm == "torn":
        (tmp_path / "one/one/b/manifest.json").write_text("{")
    else:
        path.write_text("b" if harm == "short" else "b9a")
    assert reusing(tmp_path, "two") == ["one/b"]  # c reads what one/b should have been: the same
    assert (tmp_path / "two/one/b/out").read_text() == "b2a"


def test_a_damaged_stage_of_ones_own_is_mended_from_the_other_run(tmp_path: Path) -> None:
    reusing(tmp_path, "one")
    reusing(tmp_path, "two")
    (tmp_path / "two/one/b/out").unlink()
    said: list[str] = []
    assert reusing(tmp_path, "two", said=said) == []
    assert any("is damaged" in line for line in said)
    assert (tmp_path / "two/one/b/out").read_text() == "b2a"


def test_logs_come_along_and_monitors_look_for_themselves(tmp_path: Path) -> None:
    made, _ = watched(tmp_path / "one", 99)
    made.run()
    (tmp_path / "one/c/logs/metrics.csv").write_text("step\n0\n")
    made, watch = watched(tmp_path / "two", 98)
    made.reuse = tmp_path
    assert made.run() == []
    assert [name for name, _ in watch.seen] == ["a", "one/b", "c"]
    assert read(tmp_path / "two/c/logs", "monitors")["stop"].to_list() == [98.0]
    log = tmp_path / "two/c/logs/metrics.csv"
    assert log.read_text() == "step\n0\n"
    assert not log.samefile(tmp_path / "one/c/logs/metrics.csv")
