"""The recipe's order, without running it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trackrec.interactions import LoopSettings
from trackrec.loop import Loop
from trackrec.pipeline import Pipeline, Stage


def stages(tmp_path: Path, processes: int = 1, **loop: Any) -> dict[str, Stage]:
    from trackrec.steps import Steps

    pipeline = Pipeline(tmp_path, {}, seed=0, say=lambda text: None)
    source = SimpleNamespace(content_key=dict)
    trainings = dict.fromkeys(("distill", "align", "rec_tune"), SimpleNamespace(processes=processes))
    experiment: Any = SimpleNamespace(
        pipeline=pipeline, loop=LoopSettings(**loop), dataset=source, teacher=source, **trainings
    )
    Loop(experiment, Steps(experiment)).add_stages()
    return {stage.name: stage for stage in pipeline.stages}


def test_only_trainings_run_in_several_processes(tmp_path: Path) -> None:
    made = stages(tmp_path, processes=2, rounds=1)
    several = [name for name, stage in made.items() if stage.processes == 2]
    assert several == ["distill", "warmup/rec_tune", "round-1/align", "round-1/rec_tune", "plain/rec_tune"]


def test_fault_18_the_first_g_of_the_loop_is_the_distilled_one(tmp_path: Path) -> None:
    made = stages(tmp_path, rounds=3)
    assert "distill" in made["round-1/sample"].inputs
    assert "distill" in made["round-1/align"].inputs
    assert "round-1/align" in made["round-2/align"].inputs
    assert "warmup/rec_tune" in made["round-1/score"].inputs


def test_inputs_come_before_the_stages_that_read_them(tmp_path: Path) -> None:
    made = stages(tmp_path, rounds=3, validator_start="previous")
    names = list(made)
    for stage in made.values():
        assert all(names.index(name) < names.index(stage.name) for name in stage.inputs), stage.name


@pytest.mark.parametrize(("start", "wanted"), [("base", False), ("previous", True)])
def test_where_the_validator_starts(start: Any, wanted: bool, tmp_path: Path) -> None:
    made = stages(tmp_path, rounds=2, validator_start=start)
    assert ("round-1/rec_tune" in made["round-2/rec_tune"].inputs) is wanted


def test_a_wide_warm_up_reads_the_teachers_texts(tmp_path: Path) -> None:
    assert "warmup/greedy" in stages(tmp_path, rounds=1)["warmup/rec_tune"].inputs
    wide = stages(tmp_path, rounds=1, warmup_users=0.5)["warmup/rec_tune"]
    assert "teacher" in wide.inputs
    assert "warmup/greedy" not in wide.inputs


def test_without_warmup_the_base_scores_round_1(tmp_path: Path) -> None:
    made = stages(tmp_path, rounds=1, warmup=False)
    assert "warmup/rec_tune" not in made
    assert made["round-1/score"].inputs == ("data", "round-1/sample")
