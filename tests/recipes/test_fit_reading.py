"""A loop whose V is made to read, and whose rewards are log gains less the cost of what isn't grounded."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from trackrec.ctr.arms.shuffle import other_texts
from trackrec.metrics.scores import auc
from trackrec.prompts.book import PromptBook
from trackrec.prompts.grounding import checker_of
from trackrec.prompts.settings import PromptSettings
from trackrec.runs.files import RunFiles
from trackrec.storage.manifest import read_manifest
from trackrec.storage.parts import read_table

pytestmark = [pytest.mark.recipe, pytest.mark.slow]
COST = 0.2
OPTIONS = (
    # The plain tiny base writes another text about everyone, but hardly ever ends one: it gets more room and draws.
    "--loop.distill false --sampler.init_args.n 6 --sampler.init_args.max_new_tokens 40 "
    "--rec_tune.data.contrast 0.5 --rec_tune.data.wrong_texts 0.5 --rec_tune.data.hide_history 0.5 "
    f"--align.sets.reward log_gain --align.sets.ungrounded {COST} --align.sets.min_best -99 --loop.rounds 1"
)


@pytest.fixture
def small(config: Path, tmp_path: Path) -> Path:
    """The tiny recipe with the smallest end."""
    values: dict[str, Any] = yaml.safe_load(config.read_text())
    values["loop"] |= {"texts": "played"}
    values["ctr"] |= {"arms": ["none"], "seeds": [0], "classics": []}
    values["ctr"]["trainer"]["max_epochs"] = 1
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "tiny.yaml"


def notes(run_dir: Path, stage: str) -> dict[str, Any]:
    manifest = read_manifest(run_dir / stage)
    assert manifest is not None
    return manifest.notes


def test_a_loop_that_makes_v_read(small: Path, tmp_path: Path, trackrec: Callable[..., str]) -> None:
    run_dir = tmp_path / "runs/aligned"
    common = ["fit", "--config", str(small), *OPTIONS.split()]
    printed = trackrec(*common, "--run_dir", str(run_dir), "--loop.min_reading", "-0.99")
    files = RunFiles(run_dir, {"loop": {"rounds": 1}})
    samples = read_table(run_dir / "data", "samples")

    # What V reads, measured by what it answers.
    for stage, validator, arm in (
        ("warmup/evaluate", "warmup/rec_tune", "scorer"),
        ("round-1/evaluate", "round-1/rec_tune", "tuned"),
    ):
        own, other = (files.answers(stage, validator, source) for source in (None, "shuffled"))
        assert own is not None
        assert other is not None
        assert own["sample_id"].to_list() == other["sample_id"].to_list()
        greedy = dict(
            read_table(run_dir / stage.replace("evaluate", "greedy"), "reccots")["history_id", "text"].iter_rows()
        )
        owners = dict(own.select("history_id", "user_id").iter_rows())
        swapped = other_texts({key: greedy[key] for key in owners}, owners, 42)
        differ = sum(greedy[key] != swapped[key] for key in owners)
        assert differ > len(owners) / 2
        for history, *p in own.join(other, on="sample_id").select("history_id", "p_yes", "p_yes_right").iter_rows():
            assert (p[0] == pytest.approx(p[1], abs=1e-6)) == (greedy[history] == swapped[history])
        metrics = read_table(run_dir / stage, "metrics", check_keys=True)
        found = metrics.filter(pl.col("name") == "text_use").row(0, named=True)
        p, y = own["p_yes"].to_numpy(), own["label"].to_numpy()
        assert found["value"] == pytest.approx(auc(p, y) - auc(other["p_yes"].to_numpy(), y), abs=1e-6)
        assert (found["arm"], found["n"]) == (arm, len(own))
        assert found["ci_low"] <= found["value"] <= found["ci_high"]
        assert {"auc", "reward"} <= set(metrics.filter(pl.col("arm") == "other")["name"])
    assert printed.count("V reads: ") == 2

    # Every tuned history has a wrong text beside its own, and some are hidden; the V without texts knows nothing of it.
    for stage in ("warmup/rec_tune", "round-1/rec_tune"):
        made = notes(run_dir, stage)
        assert made["with_wrong_text"] == made["examples"]
        assert 0 < made["without_history"] < made["examples"]
        assert math.isfinite(made["text_margin"])
    assert not {"with_wrong_text", "without_history"} & notes(run_dir, "plain/rec_tune").keys()

    # The rewards are log gains less costs.
    draws = read_table(run_dir / "round-1/sample", "reccots")
    scores = read_table(run_dir / "round-1/score", "scores")
    bare = read_table(run_dir / "round-1/score/without_text", "scores")
    assert set(bare["source"]) == {"none"}
    assert sorted(bare["sample_id"]) == sorted(scores["sample_id"].unique())
    rows = scores.join(bare.select("sample_id", bare="p_true"), on="sample_id")
    rows = rows.join(samples.select("sample_id", "label"), on="sample_id")
    gain = pl.col("p_true").cast(pl.Float64).log() - pl.col("bare").cast(pl.Float64).log()
    per_class = rows.with_columns(gain=gain).group_by("history_id", "draw", "label").agg(pl.col("gain").mean())
    by_draw = per_class.group_by("history_id", "draw").agg(pl.col("gain").mean())
    gains = {(history, draw): value for history, draw, value in by_draw.iter_rows()}
    tables = [read_table(run_dir / "data", name) for name in ("histories", "items", "users")]
    book = PromptBook(*tables, notes(run_dir, "data")["threshold"], PromptSettings.of(files.saved_config["prompts"]))
    checker = checker_of(draws["text"], tables[1]["title"], tables[1]["attributes"].explode().unique())
    due = {}
    for history, draw, text in draws.select("history_id", "draw", "text").iter_rows():
        claims = checker.check(text, book.evidence(history))
        due[history, draw] = gains[history, draw] - COST * claims.unsupported / max(1, claims.claims)
    sets = read_table(run_dir / "round-1/preferences", "preferences")
    assert len(sets)
    for row in sets.iter_rows(named=True):
        assert row["chosen_reward"] == pytest.approx(due[row["history_id"], row["chosen"]], abs=1e-5)
    measured = dict(read_table(run_dir / "round-1/preferences", "metrics").select("name", "value").iter_rows())
    assert measured["log_gain"] == pytest.approx(sum(gains.values()) / len(gains), abs=1e-6)
    assert notes(run_dir, "round-1/align")["examples"] == len(sets)

    # The same run, with a limit that no V reaches: all up to the alignment is taken over.
    skipping = tmp_path / "runs/skipped"
    trackrec(
        *common, "--run_dir", str(skipping), "--loop.min_reading", "0.99", "--reuse", str(tmp_path / "runs"),
        "--stages", '["data", "teacher", "greedy", "warmup/rec_tune", "warmup/evaluate", "sample", "score", '
        '"preferences", "align"]',
    )  # fmt: skip
    assert "below loop.min_reading, 0.99" in notes(skipping, "round-1/align")["reason"]
