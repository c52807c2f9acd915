"""The recipe's order, without running it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trackrec.pipeline.pipeline import Pipeline
from trackrec.prompts.settings import PromptSettings, ReaderSettings
from trackrec.recipe import graph as graphs
from trackrec.recipe.cohort import tuning_turns
from trackrec.recipe.graph import add_stages, build_graph, every_stage, stage_names
from trackrec.recipe.names import COMPARISONS, in_comparison, is_compared, kind_of
from trackrec.recipe.settings import LoopSettings
from trackrec.recipe.stage import RecipeStage


def stages(**loop: Any) -> dict[str, RecipeStage]:
    return {stage.name: stage for stage in build_graph(LoopSettings(**loop), ["none", "reccot"], "dense").stages}


def test_only_trainings_have_a_trainer_and_so_may_run_in_several_processes() -> None:
    several = {name: stage.section for name, stage in stages(rounds=1).items() if stage.section}
    assert several == {
        "distill": "distill",
        "warmup/rec_tune": "rec_tune",
        "round-1/align": "align",
        "round-1/rec_tune": "rec_tune",
        "plain/rec_tune": "rec_tune",
    }


def test_the_engine_is_told_how_many_processes_and_how_large_a_part(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, {}, seed=0, say=lambda text: None)
    exp: Any = SimpleNamespace(
        pipeline=pipeline,
        loop=LoopSettings(rounds=1, shard_histories=7),
        ctr=SimpleNamespace(arms=["none"], text=SimpleNamespace(use="dense")),
        prompts=PromptSettings(),
        scoring=SimpleNamespace(reader_path="trackrec.validator.packed_reader.PackedReader"),
        trainings=dict.fromkeys(("distill", "align", "rec_tune"), SimpleNamespace(processes=2)),
    )
    graph = add_stages(exp)
    made = {stage.name: stage for stage in pipeline.stages}
    assert list(made) == [stage.name for stage in graph.stages]
    assert {name for name, stage in made.items() if stage.processes == 2} == {
        name for name, stage in stages(rounds=1).items() if stage.section
    }
    assert {name for name, stage in made.items() if stage.part_size == 7} == {
        *("warmup/greedy", "warmup/evaluate", "round-1/sample", "round-1/score", "round-1/greedy", "round-1/evaluate"),
        *("plain/evaluate", "texts"),
    }
    assert made["round-1/align"].module == "trackrec.recipe.stages.align"


def test_fault_18_the_first_g_of_the_loop_is_the_distilled_one() -> None:
    made = stages(rounds=3)
    assert "distill" in made["round-1/sample"].inputs
    assert "distill" in made["round-1/align"].inputs
    assert "round-1/align" in made["round-2/align"].inputs
    assert "warmup/rec_tune" in made["round-1/score"].inputs


def test_inputs_come_before_the_stages_that_read_them() -> None:
    made = stages(rounds=3, validator_start="previous")
    names = list(made)
    for stage in made.values():
        assert all(names.index(name) < names.index(stage.name) for name in stage.inputs), stage.name


@pytest.mark.parametrize(("start", "wanted"), [("base", False), ("previous", True)])
def test_where_the_validator_starts(start: Any, wanted: bool) -> None:
    made = stages(rounds=2, validator_start=start)
    assert ("round-1/rec_tune" in made["round-2/rec_tune"].inputs) is wanted


def test_the_rounds_rate_of_v_is_none_of_the_warm_ups() -> None:
    made = stages(rounds=1)
    assert [name for name, stage in made.items() if "loop.validator_lr" in stage.keys] == ["round-1/rec_tune"]
    with pytest.raises(ValueError, match=r"loop\.validator_lr must be above 0, or null for rec_tune\.model\.lr, got 0"):
        LoopSettings(validator_lr=0)


def test_a_wide_warm_up_reads_the_teachers_texts() -> None:
    assert "warmup/greedy" in stages(rounds=1)["warmup/rec_tune"].inputs
    wide = stages(rounds=1, warmup_users=0.5)["warmup/rec_tune"]
    assert "teacher" in wide.inputs
    assert "warmup/greedy" not in wide.inputs


def test_without_warmup_the_base_scores_round_1() -> None:
    made = stages(rounds=1, warmup=False)
    assert "warmup/rec_tune" not in made
    assert made["round-1/score"].inputs == ("data", "round-1/sample")


def test_with_a_least_reading_alignment_reads_the_evaluation_of_the_v_that_scores() -> None:
    """Also where no V was tuned before: then it is the base's."""
    assert not [name for name in stages(rounds=2)["round-1/align"].inputs if name.endswith("evaluate")]
    for more in ({}, {"warmup": False}, {"rec_tune": False}):
        made = stages(rounds=2, min_reading=0.0, **more)
        found = [made[f"round-{number}/align"].inputs[-1] for number in (1, 2)]
        assert found == ["warmup/evaluate", "round-1/evaluate"]
    assert stages(rounds=2, min_reading=0.0, alternate=False)["round-2/align"].inputs[-1] == "warmup/evaluate"
    with pytest.raises(ValueError, match=r"loop\.min_reading must be in \(-1, 1\), a difference of two AUCs, or null"):
        LoopSettings(min_reading=1)


# -- the loop without one of its parts ------------------------------------------------------------------------------

OFF = {"distill": False, "align": False, "rec_tune": False, "alternate": False, "warmup": False}


def test_without_distillation_the_plain_base_begins() -> None:
    made = stages(rounds=2, distill=False)
    assert "distill" not in made
    assert made["warmup/greedy"].inputs == ("data",)
    assert made["round-1/sample"].inputs == ("data",)
    assert made["round-1/align"].inputs == ("data", "round-1/sample", "round-1/preferences")
    assert "round-1/align" in made["round-2/sample"].inputs


def test_without_alignment_the_distilled_g_writes_for_every_v() -> None:
    made = stages(rounds=2, align=False)
    kinds = {kind_of(name) for name in made}
    assert not kinds & {"sample", "score", "preferences", "align"}
    assert made["round-2/greedy"].inputs == ("data", "distill")
    assert made["round-2/rec_tune"].inputs == ("data", "round-2/greedy")
    assert made["texts"].inputs == ("data", "distill", "round-2/greedy")


def test_without_rec_tuning_the_warmed_up_v_judges_every_round() -> None:
    made = stages(rounds=2, rec_tune=False)
    assert [name for name in made if name.endswith("rec_tune")] == ["warmup/rec_tune", "plain/rec_tune"]
    assert "warmup/rec_tune" in made["round-2/score"].inputs
    assert made["round-2/evaluate"].inputs == ("data", "round-2/greedy", "warmup/rec_tune")
    cold = stages(rounds=2, rec_tune=False, warmup=False)
    assert [name for name in cold if name.endswith("rec_tune")] == []
    assert cold["plain/evaluate"].inputs == ("data",)


def test_without_turns_one_g_draws_one_v_scores_and_both_are_trained_once() -> None:
    made = stages(rounds=3, alternate=False)
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


@pytest.mark.parametrize("loop", [{"candidates": 2}, {"accept": "better"}])
def test_where_a_g_is_chosen_the_chosen_one_goes_on(loop: dict[str, Any]) -> None:
    made = stages(rounds=2, **loop)
    assert made["round-1/select"].inputs == ("data", "round-1/align", "distill", "warmup/rec_tune")
    assert made["round-2/select"].inputs == ("data", "round-2/align", "round-1/select", "round-1/rec_tune")
    for reader in ("round-2/sample", "round-2/align", "round-1/greedy"):
        assert "round-1/select" in made[reader].inputs
        assert "round-1/align" not in made[reader].inputs
    assert "round-2/select" in made["texts"].inputs
    assert stage_names({"loop": {"rounds": 2, **loop}, "ctr": {}}) == list(made)
    assert "round-1/select" not in stages(rounds=2)
    assert "round-1/select" not in stages(rounds=2, align=False, **loop)
    cold = stages(rounds=1, distill=False, warmup=False, **loop)
    assert cold["round-1/select"].inputs == ("data", "round-1/align")
    together = stages(rounds=3, alternate=False, **loop)
    assert together["round-3/select"].inputs == ("data", "round-3/align", "distill", "warmup/rec_tune")


def test_stages_that_read_validation_rows_know_of_the_half() -> None:
    """By what is outside of their keys: `loop.candidates: 3` instead of 2 makes none of them run again."""
    whole, half = (SimpleNamespace(loop=LoopSettings(**loop)) for loop in ({}, {"candidates": 2}))
    made = stages(rounds=1, candidates=2)
    for name in ("warmup/greedy", "round-1/greedy", "warmup/evaluate", "round-1/evaluate", "plain/evaluate"):
        assert made[name].outside(whole) == {}  # type: ignore[arg-type]
        assert made[name].outside(half) == {"validation users": "half"}  # type: ignore[arg-type]
    assert [name for name, stage in made.items() if "loop.candidates" in stage.keys] == ["round-1/align"]


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
def test_the_report_expects_the_stages_that_the_loop_has(shape: str, first: bool) -> None:
    """The list of what is missing from an unfinished run, for every shape of the loop."""
    loop: dict[str, Any] = {"rounds": 2, **({} if shape == "whole" else {shape: OFF[shape]})}
    loop |= {} if first else {"warmup": False}
    made = stages(**loop)
    assert stage_names({"loop": loop, "ctr": {}}) == list(made)


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
    assert stage_names({"loop": {"rounds": 1}, "ctr": ctr})[-len(last) :] == last


# -- comparisons for the V with RecCoT ------------------------------------------------------------------------------

APART = PromptSettings(validator=ReaderSettings(max_history=1))


def compared(prompts: PromptSettings = APART, **loop: Any) -> dict[str, RecipeStage]:
    made = build_graph(LoopSettings(rounds=2, **loop), ["reccot"], "dense", prompts).stages
    return {stage.name: stage for stage in made if is_compared(stage.name)}


def test_by_default_a_v_that_reads_less_than_g_is_compared_with_vs_that_read_as_much() -> None:
    pairs = [in_comparison(name, kind) for name in ("facts", "titles", "whole") for kind in ("rec_tune", "evaluate")]
    assert pairs[0] == "v-facts/rec_tune"
    assert list(compared()) == ["plain/rec_tune", "plain/evaluate", *pairs]
    assert list(compared(PromptSettings())) == ["plain/rec_tune", "plain/evaluate"]
    assert list(compared(comparisons=[])) == ["plain/rec_tune", "plain/evaluate"]
    asked = compared(PromptSettings(), comparisons=["whole", "facts"])
    assert list(asked) == ["plain/rec_tune", "plain/evaluate", *pairs[:2], *pairs[4:]]


def test_what_each_comparison_reads_is_among_its_inputs_and_keys() -> None:
    """The teacher's texts about evaluated histories reach no training: not G's, and no V's."""
    made = compared(comparisons=list(COMPARISONS))
    inputs = {name: stage.inputs[1:] for name, stage in made.items()}
    assert inputs == {
        "v-teacher/texts": ("teacher",),
        "plain/rec_tune": (),
        "plain/evaluate": ("plain/rec_tune",),
        "v-facts/rec_tune": ("round-2/greedy",),
        "v-facts/evaluate": ("v-facts/rec_tune", "round-2/greedy"),
        "v-titles/rec_tune": ("round-2/greedy",),
        "v-titles/evaluate": ("v-titles/rec_tune", "round-2/greedy"),
        "v-whole/rec_tune": (),
        "v-whole/evaluate": ("v-whole/rec_tune",),
        "v-teacher/rec_tune": ("teacher",),
        "v-teacher/evaluate": ("v-teacher/rec_tune", "teacher", "v-teacher/texts"),
        "v-untuned/texts": (),
        "v-untuned/rec_tune": ("v-untuned/texts",),
        "v-untuned/evaluate": ("v-untuned/rec_tune", "v-untuned/texts"),
    }
    reads_as_g = {name for name, stage in made.items() if "prompts.generator" in stage.keys}
    assert reads_as_g == {"v-teacher/texts", "v-untuned/texts", "v-whole/rec_tune", "v-whole/evaluate"}
    whole = build_graph(LoopSettings(rounds=2, comparisons=["teacher"]), ["reccot"], "dense").stages
    readers = [stage.name for stage in whole if "v-teacher/texts" in stage.inputs]
    assert readers == ["v-teacher/evaluate"]


def test_every_comparison_is_tuned_like_the_v_without_text() -> None:
    made = compared(comparisons=list(COMPARISONS), validator_start="previous", warmup_users=0.5)
    plain = made["plain/rec_tune"]
    assert "teacher" in plain.inputs
    for name in COMPARISONS:
        other = made[in_comparison(name, "rec_tune")]
        assert set(other.keys) - set(plain.keys) <= {"prompts.generator"}
        assert set(plain.inputs) <= set(other.inputs)
        assert (other.section, other.turns) == (plain.section, plain.turns)  # type: ignore[attr-defined]
    cold = compared(rec_tune=False, warmup=False)
    assert list(cold) == ["plain/evaluate", "v-facts/evaluate", "v-titles/evaluate", "v-whole/evaluate"]


def test_the_test_split_is_read_once_for_all_comparisons() -> None:
    exp: Any = SimpleNamespace(ctr=SimpleNamespace(arms=["reccot"]))
    graph = build_graph(LoopSettings(rounds=2, comparisons=["whole", "teacher"]), ["reccot"], "dense")
    read = graphs.test_stage(exp, graph)
    assert read.inputs == (
        *("data", "texts", "ctr", "round-2/rec_tune", "plain/rec_tune", "v-whole/rec_tune", "v-teacher/rec_tune"),
        *("teacher", "v-teacher/texts"),
    )
    assert "prompts.generator" in read.keys
    assert read.outside(exp) == {"comparisons": "whole teacher"}
    alone = graphs.test_stage(exp, build_graph(LoopSettings(rounds=2), ["reccot"], "dense"))
    assert alone.inputs == ("data", "texts", "ctr", "round-2/rec_tune", "plain/rec_tune")
    assert alone.outside(exp) == {}


def test_a_saved_config_tells_its_comparisons_also_one_from_before_them() -> None:
    config: dict[str, Any] = {"loop": {"rounds": 1}, "ctr": {}, "prompts": {"gone": 1, "validator": {"max_history": 1}}}
    assert [name for name in stage_names(config) if name.startswith("v-")] == [
        in_comparison(name, kind) for name in ("facts", "titles", "whole") for kind in ("rec_tune", "evaluate")
    ]
    assert not [name for name in stage_names({**config, "prompts": {}}) if name.startswith("v-")]
    assert set(compared(comparisons=list(COMPARISONS))) <= set(every_stage(2))


@pytest.mark.parametrize(
    ("given", "message"), [(["facts", "all"], "must be among facts, titles.*got 'all'"), (["facts"] * 2, "each once")]
)
def test_a_bad_comparison_is_named(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"loop\.comparisons {message}|loop\.comparisons .*{message}"):
        LoopSettings(comparisons=given)
