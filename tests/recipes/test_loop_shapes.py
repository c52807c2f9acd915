"""The loop in other shapes, on the real command line: without one of its parts, and as in the paper and its release.

What the shapes have in common is run once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from safetensors.torch import load_file

from trackrec.cli.app import run_cli
from trackrec.runs.files import RunFiles
from trackrec.storage.manifest import read_manifest
from trackrec.storage.parts import read_table

pytestmark = [pytest.mark.recipe, pytest.mark.slow]
OVERLAYS = Path(__file__).parent.parent.parent / "configs/experiments"


@pytest.fixture(scope="module")
def folder(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tiny.yaml``: two rounds of the tiny recipe, and the smallest end."""
    folder = tmp_path_factory.mktemp("shapes")
    values: dict[str, Any] = yaml.safe_load(config.read_text())
    values["loop"] |= {"warmup_users": None, "texts": "played"}
    values["ctr"] |= {"arms": ["none", "reccot"], "seeds": [0], "classics": []}
    values["ctr"]["trainer"]["max_epochs"] = 1
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values))
    return folder


def fit(folder: Path, name: str, *more: str, command: str = "fit") -> Path:
    """Run the tiny recipe with the overlay of this name; returns the run directory."""
    run_dir, before, sys.argv = folder / name, sys.argv, ["trackrec"]
    args = [
        "--config",
        str(folder / "tiny.yaml"),
        "--config",
        str(OVERLAYS / f"{name}.yaml"),
        "--run_dir",
        str(run_dir),
    ]
    try:
        run_cli([command, *args, *more, *(["--reuse", str(folder)] if command == "fit" else [])])
    finally:
        sys.argv = before
    return run_dir


def notes(run_dir: Path, stage: str) -> dict[str, Any]:
    manifest = read_manifest(run_dir / stage)
    assert manifest is not None
    return manifest.notes


def test_without_alternation(folder: Path) -> None:
    """One G, one V, one training each, on the sets and the rows of both rounds."""
    run_dir = fit(folder, "no_alternation")
    draws = [read_table(run_dir / f"round-{number}/sample", "reccots") for number in (1, 2)]
    distilled = read_manifest(run_dir / "distill")
    assert distilled is not None
    assert {source for table in draws for source in table["source"]} == {distilled.content_hash[:12]}
    assert draws[0]["seed"].to_list() != draws[1]["seed"].to_list()
    sets = [notes(run_dir, f"round-{number}/preferences")["sets"] for number in (1, 2)]
    assert all(sets)
    assert notes(run_dir, "round-2/align")["examples"] == sum(sets)
    references = read_table(run_dir / "round-2/align", "reference_logps", check_keys=True)
    assert references["round"].value_counts(sort=True)["count"].to_list() == sorted(sets, reverse=True)
    assert not (run_dir / "round-1/align").exists()
    assert not (run_dir / "round-1/rec_tune").exists()
    tuned = {stage: notes(run_dir, stage)["tuning_rows"] for stage in ("round-2/rec_tune", "plain/rec_tune")}
    assert tuned["round-2/rec_tune"] == tuned["plain/rec_tune"] >= notes(run_dir, "warmup/rec_tune")["tuning_rows"]
    readings = RunFiles(run_dir, {"loop": {"rounds": 2}}).readings()
    foreign = readings.filter((pl.col("stage") == "round-2/align") & pl.col("name").str.contains("another G"))
    assert foreign["verdict"].to_list() == ["ok"]


def test_without_distillation(folder: Path) -> None:
    """The tiny base hardly ever ends a text, so it gets more room and more draws."""
    more = ["--sampler.init_args.n", "6", "--sampler.init_args.max_new_tokens", "40", "--loop.rounds", "1"]
    run_dir = fit(folder, "no_distillation", *more)
    assert not (run_dir / "distill").exists()
    assert set(read_table(run_dir / "round-1/sample", "reccots")["source"]) == {"untuned"}
    assert notes(run_dir, "round-1/align")["examples"] > 0  # its check at the start found the reference to be the base
    readings = RunFiles(run_dir, {"loop": {"rounds": 1}}).readings()
    foreign = readings.filter((pl.col("stage") == "round-1/align") & pl.col("name").str.contains("another G"))
    assert foreign["verdict"].to_list() == ["ok"]


def moved(run_dir: Path, stage: str) -> float:
    """How far an adapter is from a fresh one, whose B matrices are zero."""
    weights = load_file(run_dir / stage / "adapter/adapter_model.safetensors")
    return max(float(value.abs().max()) for name, value in weights.items() if "lora_B" in name)


def test_without_alignment_and_at_a_rate_of_its_own_for_the_rounds(folder: Path) -> None:
    run_dir = fit(folder, "no_alignment", "--loop.validator_lr", "1e-9")
    still, trained = (moved(run_dir, stage) for stage in ("round-2/rec_tune", "warmup/rec_tune"))
    assert still < 1e-6 < 1e-4 < trained
    assert moved(run_dir, "plain/rec_tune") > 1e-4
    texts = [read_table(run_dir / f"round-{number}/greedy", "reccots") for number in (1, 2)]
    assert texts[0]["text"].to_list() == texts[1]["text"].to_list()
    assert not list(run_dir.glob("round-*/align"))
    arms = set(read_table(run_dir / "round-2/evaluate", "metrics")["arm"])
    assert arms == {"scorer", "tuned", "other", "texts"}


def test_rewards_that_are_not_reliable_leave_g_as_it_is(folder: Path) -> None:
    """No random V agrees with itself at .999: each round publishes the adapter that it started from."""
    run_dir = fit(folder, "targets_4", "--loop.min_reliability", "0.999")
    measured = read_table(run_dir / "round-1/preferences", "metrics").filter(pl.col("name") == "reward_reliability")
    assert measured["n"][0] > 0
    assert -1 <= measured["value"][0] < 0.999
    assert notes(run_dir, "round-1/preferences")["reward_reliability"] == measured["value"][0]
    for number, start in ((1, "distill"), (2, "round-1/align")):
        found = notes(run_dir, f"round-{number}/align")
        assert found["skipped"] == 1
        assert "below loop.min_reliability, 0.999" in found["reason"]
        weights = [
            load_file(run_dir / stage / "adapter/adapter_model.safetensors")
            for stage in (start, f"round-{number}/align")
        ]
        assert weights[0].keys() == weights[1].keys()
        assert all(bool((weights[0][name] == weights[1][name]).all()) for name in weights[0])
    texts = [read_table(run_dir / f"round-{number}/greedy", "reccots") for number in (1, 2)]
    assert texts[0]["text"].to_list() == texts[1]["text"].to_list()
    assert moved(run_dir, "round-2/rec_tune") > 1e-4  # V is tuned as ever
    report = (run_dir / "report/report.md").read_text()
    assert "Round 2: not aligned, the rewards' reliability is" in report
    assert "no step was logged" not in report


def test_without_rec_tuning_and_with_the_test_split(folder: Path) -> None:
    """The coldest shape: no warm-up either, so that no V is ever tuned."""
    cold = ["--loop.warmup", "false"]
    run_dir = fit(folder, "no_rec_tuning", *cold)
    assert not list(run_dir.glob("*/rec_tune"))
    scores = read_table(run_dir / "round-2/score", "scores")
    assert set(scores["validator"]) == {"base"}
    assert set(read_table(run_dir / "plain/evaluate", "metrics")["arm"]) == {"untuned"}
    fit(folder, "no_rec_tuning", *cold, command="test")
    arms = set(read_table(run_dir / "test", "metrics")["arm"])
    assert {"validator/reccot", "validator/untuned", "reccot"} <= arms
    assert "validator/plain" not in arms
    # a run that is whole says so
    assert "Not done yet" not in (run_dir / "report/report.md").read_text()


def local(config: Path) -> list[str]:
    """Flags for a local teacher and encoder, and for what a random model of two layers needs."""
    return [
        *("--teacher", "TableTeacher", "--teacher.init_args.path", str(config.parent / "texts.csv")),
        *("--teacher.init_args.fraction", "1.0", "--embed.model", str(config.parent / "encoder")),
        *("--prompts.max_words", "20", "--distill.model.lr", "2e-2"),
    ]


def scored_rows(run_dir: Path) -> pl.DataFrame:
    """The rows on which V scored the draws of round 1, with their use: one for each history."""
    scores = read_table(run_dir / "round-1/score", "scores").select("history_id", "sample_id").unique()
    assert scores["history_id"].n_unique() == len(scores) > 0
    return scores.join(read_table(run_dir / "data", "samples").select("sample_id", "use"), on="sample_id")


def assert_whole(run_dir: Path) -> None:
    """The plain base scored round 1, G and V were trained, and the nets of both arms too."""
    assert not (run_dir / "warmup/rec_tune").exists()
    assert set(read_table(run_dir / "round-1/score", "scores")["validator"]) == {"base"}
    assert notes(run_dir, "round-1/align")["examples"] > 0
    assert notes(run_dir, "round-1/rec_tune")["tuning_rows"] > 0
    assert {"none", "reccot"} <= set(read_table(run_dir / "ctr", "metrics")["arm"])


def test_the_papers_letter(folder: Path, config: Path) -> None:
    short = ["--sampler.init_args.n", "4", "--sampler.init_args.max_new_tokens", "8", "--loop.rounds", "2"]
    run_dir = fit(folder, "paper", *local(config), *short)
    assert_whole(run_dir)
    assert set(scored_rows(run_dir)["use"]) == {"reward"}
    distilled, again = (read_manifest(run_dir / stage) for stage in ("distill", "round-2/rec_tune"))
    assert distilled is not None
    assert again is not None
    assert set(read_table(run_dir / "round-1/sample", "reccots")["source"]) == {distilled.content_hash[:12]}
    assert set(read_table(run_dir / "round-2/score", "scores")["validator"]) == {"round-1/rec_tune"}
    assert "round-2/greedy" in again.inputs
    assert "round-1/rec_tune" not in again.inputs  # V starts from the base


def test_the_releases_settings(folder: Path, config: Path) -> None:
    """The plain base writes; tiny, it hardly ever ends a text: it gets more room, and one round is enough."""
    long = ["--sampler.init_args.max_new_tokens", "40", "--align.sets.min_best", "0.0", "--loop.rounds", "1"]
    run_dir = fit(folder, "release", *local(config), *long)
    assert_whole(run_dir)
    assert set(scored_rows(run_dir)["use"]) == {"reward", "tune"}
    assert not (run_dir / "distill").exists()
    draws = read_table(run_dir / "round-1/sample", "reccots")
    assert set(draws["source"]) == {"untuned"}
    assert draws["draw"].n_unique() == 10
    sets = read_table(run_dir / "round-1/preferences", "preferences")
    assert sets["rejected"].list.len().max() <= 2  # type: ignore[operator]
