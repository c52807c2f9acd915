"""SIGKILL inside every stage of a run: the run goes on, and its end is that of an undisturbed one, to the bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.recipe, pytest.mark.slow]


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("crashes")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_run_that_dies_in_every_stage_ends_like_an_undisturbed_one(config: Path, work_dir: Path, seed: int) -> None:
    script = Path(__file__).with_name("crashes.py")
    for name in work_dir.glob("broken*"):
        subprocess.run(["rm", "-rf", str(name)], check=True)
    ran = subprocess.run(
        [sys.executable, str(script), str(config), str(work_dir), str(seed)], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    report = json.loads(ran.stdout)
    assert len(report["killed"]) >= 24
    assert all(report["killed"].values()), report
    assert report["differ"] == [], report
    assert report["left"] == []
