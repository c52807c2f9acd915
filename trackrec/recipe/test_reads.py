"""How often the test split of a run was read."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from trackrec.recipe.tables import sample_rows
from trackrec.runtime.errors import SettingError

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment

TEST_READS = "test_reads.jsonl"


def count_read(exp: Experiment) -> int:
    """Note that test labels are read now; returns how often that has happened in this run directory.

    Raises:
        SettingError: the run has no test rows.
    """
    if not (sample_rows(exp)["split"] == "test").any():
        raise SettingError("this run has no test rows. Set samples.test above 0, or name a test file, and fit again.")
    path = exp.pipeline.run_dir / TEST_READS
    with path.open("a") as file:
        file.write(json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds")}) + "\n")
    return test_reads(exp.pipeline.run_dir)


def test_reads(run_dir: Path) -> int:
    """How often the test split was read in a run directory."""
    path = run_dir / TEST_READS
    return len(path.read_text().splitlines()) if path.exists() else 0
