"""A disk that fills up, at every file of every kind of stage: one clear error, nothing half-written, and it goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forks import run

pytestmark = [pytest.mark.recipe, pytest.mark.slow]


def test_a_run_goes_on_after_a_full_disk_at_every_file(config: Path, tmp_path: Path) -> None:
    ran = run("full_disk:main", str(config), tmp_path)
    assert ran.returncode == 0, ran.stderr[-3000:]
    report = json.loads(ran.stdout)
    assert report["wrong"] == []
    assert report["differ"] == []
    assert report["left"] == []
    assert min(report["met"].values()) >= 2, report["met"]
    assert report["met"]["round-1/align"] >= 4  # a table, the adapter, its config, a manifest
