"""The recipe's order, without running it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trackrec.pipeline.pipeline import Pipeline
from trackrec.pipeline.stage import Stage
from trackrec.recipe.experiment import tuning_turns
from trackrec.recipe.loop import Loop
from trackrec.recipe.settings import LoopSettings
from trackrec.runs.files import stages_of


def stages(tmp_path: Path, processes: int = 1, **loop: Any) -> dict[str, Stage]:
    from trackrec.recipe.steps import Steps

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


def test_the_rounds_rate_of_v_is_none_of_the_warm_ups(tmp_path: Path) -> None:
    made = stages(tmp_path, rounds=1)
    assert [name for name, stage in made.items() if "loop.validator_lr" in stage.keys] == ["round-1/rec_tune"]
    with pytest.raises(ValueError, match=r"loop\.validator_lr must be above 0, or null for rec_tune\.model\.lr, got 0"):
        LoopSettings(validator_lr=0)


def test_a_wide_warm_up_reads_the_teachers_texts(tmp_path: Path) -> None:
    assert "warmup/greedy" in stages(tmp_path, rounds=1)["warmup/rec_tune"].inputs
    wide = stages(tmp_path, rounds=1, warmup_users=0.5)["warmup/rec_tune"]
    assert "teacher" in wide.inputs
    assert "warmup/greedy" not in wide.inputs


def test_without_warmup_the_base_scores_round_1(tmp_path: Path) -> None:
    made = stages(tmp_path, rounds=1, warmup=False)
    assert "warmup/rec_tune" not in made
    assert made["round-1/score"].inputs == ("data", "round-1/sample")


# -- the loop without one of its parts ------------------------------------------------------------------------------

OFF = {"distill": False, "align": False, "rec_tune": False, "alternate": False, "warmup": False}


def test_without_distillation_the_plain_base_begins(tmp_path: Path) -> None:
    made = stages(tmp_path, rounds=2, distill=False)
    assert "distill" not in made
    assert made["warmup/greedy"].inputs == ("data",)
    assert made["round-1/sample"].inputs == ("data",)
    assert made["round-1/align"].inputs == ("data", "round-1/sample", "round-1/preferences")
    assert "round-1/align" in made["round-2/sample"].inputs


def test_without_alignment_the_distilled_g_writes_for_every_v(tmp_path: Path) -> None:
    made = stages(tmp_path, rounds=2, align=False)
    kinds = {stage.kind for stage in made.values()}
    assert not kinds & {"sample", "score", "preferences", "align"}
    assert made["round-2/greedy"].inputs == ("data", "distill")
    assert made["round-2/rec_tune"].inputs == ("data", "round-2/greedy")
    assert made["texts"].inputs == ("data", "distill", "round-2/greedy")


def test_without_rec_tuning_the_warmed_up_v_judges_every_round(tmp_path: Path) -> None:
    made = stages(tmp_path, rounds=2, rec_tune=False)
    assert [name for name in made if name.endswith("rec_tune")] == ["warmup/rec_tune", "plain/rec_tune"]
    assert "warmup/rec_tune" in made["round-2/score"].inputs
    assert made["round-2/evaluate"].inputs == ("data", "round-2/greedy", "warmup/rec_tune")
    cold = stages(tmp_path, rounds=2, rec_tune=False, warmup=False)
    assert [name for name in cold if name.endswith("rec_tune")] == []
    assert cold["plain/evaluate"].inputs == ("data",)


def test_without_turns_one_g_draws_one_v_scores_and_both_are_trained_once(tmp_path: Path) -> None:
    made = stages(tmp_path, rounds=3, alternate=False)
    assert [name for name in made if name.endswith("/align")] == ["round-3/align"]
    drawn = [f"round-{number}/{kind}" for number in (1, 2, 3) for kind in ("sample", "preferences")]
    assert made["round-3/align"].inputs == ("data", "distill", *drawn)
    for number in (1, 2, 3):
        assert made[f"round-{number}/sample"].inputs == ("data", "distill")
        assert made[f"round-{number}/score"].inputs == ("data", f"round-{number}/sample", "warmup/rec_tune")
    assert [name for name in made if name.endswith("rec_tune")] == [
        *("warmup/rec_tune", "round-3/rec_tune", "plain/rec_tune")
    ]
    assert "loop.alternate" in made["round-3/rec_tune"].keys


@pytest.mark.parametrize(
    ("loop", "turns"),
    [
        ({}, [3]),
        ({"validator_start": "previous"}, [0, 1, 2, 3]),
        ({"validator_start": "previous", "warmup": False}, [1, 2, 3]),
        ({"alternate": False}, [1, 2, 3]),
        ({"alternate": False, "validator_start": "previous"}, [0, 1, 2, 3]),
        ({"rec_tune": False}, [0]),
        ({"rec_tune": False, "validator_start": "previous"}, [0]),
        ({"rec_tune": False, "warmup": False}, []),
    ],
)
def test_the_plain_v_is_tuned_on_what_the_last_v_has_seen(loop: dict[str, Any], turns: list[int]) -> None:
    assert tuning_turns(LoopSettings(rounds=3, **loop)) == turns


def test_rounds_that_change_nothing_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"loop\.align and loop\.rec_tune are both false"):
        LoopSettings(align=False, rec_tune=False)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("shape", ["whole", *OFF])
def test_the_report_expects_the_stages_that_the_loop_has(shape: str, first: bool, tmp_path: Path) -> None:
    """The list of what is missing from an unfinished run, for every shape of the loop."""
    loop: dict[str, Any] = {"rounds": 2, **({} if shape == "whole" else {shape: OFF[shape]})}
    loop |= {} if first else {"warmup": False}
    made = stages(tmp_path, **loop)
    assert stages_of({"loop": loop, "ctr": {}}) == [*made, "embed", "ctr"]


@pytest.mark.parametrize(
    ("ctr", "last"),
    [
        ({"arms": ["none"]}, ["texts", "ctr"]),
        ({"arms": ["none", "reccot"], "text": {"use": "log_odds"}}, ["texts", "log_odds", "ctr"]),
        ({"arms": ["none"], "text": {"use": "log_odds"}}, ["texts", "ctr"]),
        ({"arms": ["none", "reccot", "untuned"], "text": {"use": "query"}}, ["texts", "untuned", "embed", "ctr"]),
    ],
)
def test_the_report_expects_the_stages_that_the_arms_read(ctr: dict[str, Any], last: list[str]) -> None:
    assert stages_of({"loop": {"rounds": 1}, "ctr": ctr})[-len(last) :] == last
