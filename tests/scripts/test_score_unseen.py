"""scripts/score_unseen.py asks about train users of whom nothing was learned."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType, SimpleNamespace

import polars as pl
import pytest
import yaml

from trackrec.cli.app import parse_values
from trackrec.recipe.cohort import select_cohort
from trackrec.recipe.settings import LoopSettings

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "score_unseen.py"
CONFIG = ROOT / "configs" / "quickstart.yaml"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("score_unseen", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def experiment(**loop) -> SimpleNamespace:
    """Forty users of twelve rows each, half of them to tune on; eight users are held out."""
    rows = [
        (f"s{user}-{row}", f"u{user}", f"h{user}", "i", row // 2 % 2, split, ("reward", "tune")[row % 2])
        for user in range(40)
        for split in [("train", "train", "train", "train", "test")[user % 5]]
        for row in range(12)
    ]
    names = ["sample_id", "user_id", "history_id", "item_id", "label", "split", "use"]
    samples = pl.DataFrame(rows, schema=names, orient="row")
    cohort = select_cohort(samples, LoopSettings(**loop), seed=1)
    return SimpleNamespace(cohort=cohort, once=lambda name, _: {"samples": samples, "cohort": cohort}[name])


def test_nobody_who_plays_warms_up_or_is_held_out_is_asked_about(script):
    exp = experiment(users=0.25, warmup_users=0.5)
    found = script.unseen_rows(exp, users=10, rows=5)
    cohort = exp.cohort
    met = {user for part in (cohort.reward, cohort.tune, cohort.warmup) for user in part["user_id"]}
    assert len(met) == 16
    assert not met & set(found["user_id"])
    assert set(found["split"]) == {"train"}
    assert found["user_id"].value_counts()["count"].to_list() == [5] * 10
    assert found.equals(script.unseen_rows(exp, users=10, rows=5))


def test_a_run_of_all_users_leaves_nobody(script):
    with pytest.raises(SystemExit, match=r"lower loop\.users or loop\.warmup_users"):
        script.unseen_rows(experiment(users=1.0), users=10, rows=5)


def test_the_run_tells_how_it_was_configured(script, tmp_path, tiny_model_dir):
    values = parse_values([CONFIG])
    values["backbone"]["model"] = str(tiny_model_dir)
    for stage, seed in (("data", 5), ("round-1/align", 7), ("round-1/greedy", 9)):
        (tmp_path / stage).mkdir(parents=True)
        if stage != "round-1/greedy":  # which was broken off
            (tmp_path / stage / "manifest.json").write_text("{}")
        config = tmp_path / stage / "config.yaml"
        config.write_text(yaml.safe_dump({**values, "seed_everything": seed}))
        os.utime(config, (seed, seed))
    exp = script.experiment_of(tmp_path)
    assert exp.seed == 7
    assert exp.directory("data") == tmp_path / "data"


def test_a_folder_without_stages_is_no_run(script, tmp_path):
    with pytest.raises(SystemExit, match="is no run directory"):
        script.experiment_of(tmp_path)
