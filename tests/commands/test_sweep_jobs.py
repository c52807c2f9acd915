"""The runs of a sweep: those of a seed in turn, seeds side by side."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest

from trackrec.commands.sweep import run_all


class Runs:
    """Stands in for the processes: keeps what was asked; every second one waits for its neighbour, and one fails."""

    def __init__(self, together: int, failing: str = "") -> None:
        self.barrier, self.failing = threading.Barrier(together), failing
        self.names: dict[str, list[str]] = {}
        self.threads: set[str] = set()

    def __call__(self, command: list[str], env: Mapping[str, str], stdout: BinaryIO, **kwargs: Any) -> SimpleNamespace:
        name = Path(command[command.index("--run_dir") + 1]).name
        variant, seed = name.split("-seed")
        self.names.setdefault(seed, []).append(variant)
        stdout.write(b"trackrec: error:\nno such thing\n" if name == self.failing else b"")
        self.threads.add(env.get("OMP_NUM_THREADS", ""))
        self.barrier.wait(timeout=30)  # breaks where fewer runs go on at once
        return SimpleNamespace(returncode=int(name == self.failing))


def test_seeds_side_by_side_and_their_variants_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(2, failing="b-seed4")
    monkeypatch.setattr(subprocess, "run", runs)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    said: list[str] = []
    assert run_all(["base", "b"], [3, 4], tmp_path, said.append, jobs=2) == ["b-seed4"]
    assert runs.names == {"3": ["base", "b"], "4": ["base", "b"]}
    assert runs.threads == {str(max(1, (os.cpu_count() or 1) // 2))}
    assert "[ 4/4] b-seed4 failed: no such thing" in said


def test_one_job_leaves_the_threads_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(1)
    monkeypatch.setattr(subprocess, "run", runs)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert run_all(["base"], [0, 1], tmp_path, lambda text: None) == []
    assert runs.threads == {""}


def test_no_job_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--jobs must be at least 1, got 0"):
        run_all(["base"], [0], tmp_path, lambda text: None, jobs=0)
