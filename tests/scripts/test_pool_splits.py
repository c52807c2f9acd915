"""scripts/pool_splits.py: differences of several runs, and their mean with an interval over runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from trackrec.report.render.document import Num

SCRIPT = Path(__file__).parents[2] / "scripts" / "pool_splits.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pool_splits", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_mean_over_splits_has_students_interval_over_them(script: ModuleType) -> None:
    """.01, .03 and .05: mean .03, s = .02, t(2) = 4.3027, half = 4.3027 * .02 / sqrt(3) = .04968."""
    found = {f"split-{seed}": {"a": Num(value)} for seed, value in ((101, 0.01), (102, 0.03), (103, 0.05))}
    found["split-104"] = {"b": Num(0.2)}
    lines = script.pooled(found)
    whole, by_run = lines["a"]
    assert (whole.value, whole.low, whole.high) == pytest.approx((0.03, -0.01968, 0.07968), abs=1e-5)
    assert list(by_run) == ["split-101", "split-102", "split-103"]
    assert script.shown(whole) == "+.0300 [−.0197, +.0797]"
    assert script.shown(lines["b"][0]) == "+.2000"
