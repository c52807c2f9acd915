"""Which modules decide which stage; see `stage_code`, which writes the table."""

from __future__ import annotations

from stage_code import OTHERS, SHIPPED, TABLE, code, matrix, stages

WITHOUT_RESULT = ("trackrec.report", "trackrec.commands", "trackrec.cli", "trackrec.serving", "trackrec.runs")


def test_the_table_is_that_of_today() -> None:
    """Where it differs: look at what changed, then run ``python tests/recipe/stage_code.py``."""
    assert matrix() == TABLE.read_text()


def test_what_the_table_must_say() -> None:
    kinds = stages()
    reached = {kind: code(stage, SHIPPED) for kind, stage in kinds.items()}
    vllm = {kind: code(stage, OTHERS, "vllm") for kind, stage in kinds.items()}
    assert {kind for kind, found in reached.items() if "trackrec.align.softmax_dpo" in found} == {"align"}
    assert {kind for kind, found in reached.items() if "trackrec.ctr.nets.din" in found} == {"ctr"}
    assert not any(name.startswith("trackrec.ctr.nets.deepfm") for found in reached.values() for name in found)
    assert not any(name.startswith(WITHOUT_RESULT) for found in (*reached.values(), *vllm.values()) for name in found)
    assert not any(".vllm" in name for found in reached.values() for name in found)
    writes = {"sample", "greedy", "select", "texts", "untuned", "v-untuned/texts"}
    scores = {"score", "select", "evaluate", "log_odds", "test"}
    scores |= {kind for kind in kinds if kind.endswith("/evaluate")}
    assert {kind for kind, found in vllm.items() if "trackrec.llm.vllm.sampler" in found} == writes
    assert {kind for kind, found in vllm.items() if "trackrec.llm.vllm.host" in found} == writes | scores


def test_no_stage_imports_the_experiment_or_the_graph() -> None:
    for kind, stage in stages().items():
        assert not code(stage, SHIPPED) & {"trackrec.recipe.experiment", "trackrec.recipe.graph"}, kind
