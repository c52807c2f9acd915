"""Which modules of the package decide the result of each kind of stage: computed from imports, kept in a table.

``python tests/recipe/stage_code.py`` (from the repository's root) writes ``tests/recipe/stage_code.txt`` anew. The test
compares the two, so that a change of what reruns what is seen in review. A line is a module, a column a kind of stage:
``x`` where the module decides under the classes of the quickstart (``HFSampler``, ``DIN``, ``MLPConnector``,
``MovieLens``, ``ProfileTeacher``), ``o`` where only under others (``VLLMSampler``, ``DeepFM``, ``HEAConnector``,
``Table``, ``LocalTeacher``, ``scoring.engine: vllm``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from trackrec.pipeline.source_code import class_modules, class_paths, code_of, package_modules
from trackrec.recipe.graph import build_graph
from trackrec.recipe.names import is_compared, kind_of
from trackrec.recipe.settings import LoopSettings
from trackrec.recipe.stage import RecipeStage
from trackrec.recipe.stages.test_ratings import ReadTestRatings
from trackrec.validator.settings import ScoreSettings

TABLE = Path(__file__).with_suffix(".txt")
SHIPPED: dict[str, Any] = {
    "dataset": {"class_path": "trackrec.interactions.MovieLens"},
    "teacher": {"class_path": "trackrec.distill.ProfileTeacher"},
    "sampler": {"class_path": "trackrec.llm.sampling.hf_sampler.HFSampler"},
    "ctr": {"net": {"class_path": "trackrec.ctr.DIN"}, "connector": {"class_path": "trackrec.ctr.MLPConnector"}},
}
OTHERS: dict[str, Any] = {
    "dataset": {"class_path": "trackrec.interactions.Table"},
    "teacher": {"class_path": "trackrec.distill.LocalTeacher"},
    "sampler": {"class_path": "trackrec.llm.vllm.sampler.VLLMSampler"},
    "ctr": {"net": {"class_path": "trackrec.ctr.DeepFM"}, "connector": {"class_path": "trackrec.ctr.HEAConnector"}},
}


def stages() -> dict[str, RecipeStage]:
    """One stage of each kind, by kind; those before the rounds are like those of a round.

    Stages of comparisons have their whole names; those with the same kind are alike.
    """
    dense = build_graph(
        LoopSettings(rounds=1, candidates=2, comparisons=["teacher", "untuned"]), ["reccot", "untuned"], "dense"
    )
    log_odds = build_graph(LoopSettings(rounds=1), ["reccot"], "log_odds")
    every = [*dense.stages, *log_odds.stages[-2:-1]]
    from trackrec.recipe.stages.test import ReadTest

    found = {stage.name if is_compared(stage.name) else kind_of(stage.name): stage for stage in every}
    test = ReadTest(dense.validator, tuple(dense.compared))
    return {**found, "test": test, "test_ratings": ReadTestRatings()}


def code(stage: RecipeStage, config: Mapping[str, Any], engine: Any = "hf") -> set[str]:
    """The modules that decide a stage's result."""
    exp: Any = SimpleNamespace(scoring=ScoreSettings(engine=engine))
    sections = [config[key] for key in stage.keys if key in config]
    named, outside = class_modules([*class_paths(sections), *stage.classes(exp)])
    assert not outside
    return set(code_of({type(stage).__module__, *named}).modules)


def matrix() -> str:
    """The table: ``x`` where a module decides under the shipped classes, ``o`` where only under the others."""
    kinds = stages()
    shipped = {kind: code(stage, SHIPPED) for kind, stage in kinds.items()}
    others = {kind: code(stage, OTHERS, "vllm") for kind, stage in kinds.items()}
    width = max(map(len, package_modules()))
    lines = [" " * width + "  " + " ".join(kinds)]
    for module in package_modules():
        marks = ["x" if module in shipped[kind] else "o" if module in others[kind] else "." for kind in kinds]
        cells = [f"{mark:^{len(kind)}}" for mark, kind in zip(marks, kinds, strict=True)]
        lines.append(f"{module:<{width}}  {' '.join(cells)}".rstrip())
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TABLE.write_text(matrix())
