"""SIGKILL inside every stage of a run: the run goes on, and its end is that of an undisturbed one, to the bit.

One run dies at chosen events. ``TRACKREC_CRASH_SEEDS=1,2,3`` (``make test-crashes``) adds runs that die at random ones;
inside a training, `test_resume` goes through every event.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from crashes import choose
from forks import run

pytestmark = [pytest.mark.recipe, pytest.mark.slow]
SEEDS = [0, *map(int, filter(None, os.environ.get("TRACKREC_CRASH_SEEDS", "").split(",")))]


def test_the_chosen_events_are_first_last_and_middle_ones() -> None:
    counts = {"data": 4, "round-1/score": 5, "round-2/score": 5, "plain/score": 5}
    assert choose(counts, 0) == {"data": 1, "round-1/score": 1, "round-2/score": 5, "plain/score": 3}
    assert choose(counts, 1) != choose(counts, 2)


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("crashes")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_that_dies_in_every_stage_ends_like_an_undisturbed_one(config: Path, work_dir: Path, seed: int) -> None:
    shutil.rmtree(work_dir / "broken", ignore_errors=True)
    ran = run("crashes:main", str(config), work_dir, seed)
    assert ran.returncode == 0, ran.stderr[-3000:]
    report = json.loads(ran.stdout)
    assert len(report["killed"]) >= 24
    assert all(report["killed"].values()), report
    assert report["differ"] == [], report
    assert report["left"] == []
