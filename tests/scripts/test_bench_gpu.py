"""The GPU benchmark runs dry on a CPU: every stage of a config, on a tiny shape."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.recipe
@pytest.mark.slow
def test_every_stage_is_measured():
    command = [sys.executable, "scripts/bench_gpu.py", "--config", "configs/quickstart.yaml", "--shape", "tiny"]
    sizes = ["--prompt", "40", "--new", "16", "--target", "4", "--decode", "2", "--repeats", "1", "--json"]
    done = subprocess.run([*command, *sizes], cwd=ROOT, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    stages = report["sdpa"]
    assert list(stages) == ["distill step", "sample", "score", "reference pass", "align step", "rec_tune step"]
    # quickstart: n = 4 draws of 16 tokens after a prompt of 40
    assert stages["align step"]["tokens"] == 40 + 4 * 16
    assert all(figures["tokens_per_s"] > 0 and figures["peak_gib"] > 0 for figures in stages.values())
