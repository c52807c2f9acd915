"""When a round is not aligned: the reliability of its rewards against ``loop.min_reliability``."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import frame

from trackrec.align.reliability import COMMON, RELIABILITY
from trackrec.metrics.intervals import Interval, metric_rows
from trackrec.metrics.names import TEXT_USE
from trackrec.recipe.settings import LoopSettings
from trackrec.recipe.stages.align import Align


def experiment(least: float | None, *found: tuple[float, int]) -> Any:
    """Of an experiment, the limit and each round's reliability, with the number of histories behind it."""
    tables = {
        f"round-{number}/preferences": frame(
            "metrics",
            metric_rows(
                {RELIABILITY: Interval(value, math.nan, math.nan, n), COMMON: Interval(0.9, math.nan, math.nan, 40)},
                stage=f"round-{number}/preferences",
                split="train",
                arm="scorer",
            ),
        )
        for number, (value, n) in enumerate(found, 1)
    }
    said: list[str] = []
    settings = LoopSettings(targets=4, min_reliability=least)
    return SimpleNamespace(loop=settings, table=lambda stage, _: tables[stage], say=said.append, said=said)


@pytest.mark.parametrize(
    ("least", "found", "skipped"),
    [
        (None, [(-0.5, 40)], False),
        (0.1, [(0.09, 40)], True),
        (0.1, [(0.1, 40)], False),
        (0.1, [(0.05, 40), (0.17, 40)], False),  # .11 on average
        (0.1, [(0.05, 40), (0.13, 40)], True),
        (0.1, [(0.05, 40), (math.nan, 0)], True),
    ],
)
def test_a_round_is_skipped_below_the_limit(least, found, skipped):
    exp = experiment(least, *found)
    reason = Align(tuple(range(1, len(found) + 1)), "distill").reason_to_skip(exp)
    assert (reason is not None) == skipped
    if skipped:
        assert "below loop.min_reliability, 0.1" in reason
    assert exp.said == []


def reading(least: float | None, *found: float) -> Any:
    """Of an experiment, the limit and V's text_use in the stage ``warmup/evaluate``, beside another metric."""
    key = {"stage": "warmup/evaluate", "round": 0, "split": "valid"}
    values = [metric_rows({"auc": Interval(-0.9, -1, 0, 40)}, arm="other", **key)]
    values += [metric_rows({TEXT_USE: Interval(value, -1, 1, 40)}, arm="scorer", **key) for value in found]
    table = frame("metrics", [row for rows in values for row in rows])
    said: list[str] = []
    settings = LoopSettings(min_reading=least)
    return SimpleNamespace(loop=settings, table=lambda *_: table, say=said.append, said=said)


@pytest.mark.parametrize(
    ("least", "found", "skipped"), [(None, -0.2, False), (0.0, -0.01, True), (0.0, 0.0, False), (0.02, 0.019, True)]
)
def test_a_round_whose_v_does_not_read_is_skipped(least, found, skipped):
    exp = reading(least, found)
    reason = Align((1,), "distill", "warmup/evaluate").reason_to_skip(exp)
    assert (reason is not None) == skipped
    if skipped:
        assert reason.startswith("V's AUC with the users' own texts less that with other users' is ")
        assert f"below loop.min_reading, {least}" in reason
    assert exp.said == []


@pytest.mark.parametrize("found", [(), (math.nan,)])
def test_a_round_whose_v_was_not_measured_is_aligned_and_said(found):
    exp = reading(0.0, *found)
    assert Align((1,), "distill", "warmup/evaluate").reason_to_skip(exp) is None
    assert "whether V reads can't be measured" in exp.said[0]


def test_what_cannot_be_measured_is_aligned_and_said():
    exp = experiment(0.1, (math.nan, 0))
    assert Align((1,), "distill").reason_to_skip(exp) is None
    assert "can't be measured" in exp.said[0]
