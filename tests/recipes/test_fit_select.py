"""The stage ``select`` on the real command line: two candidates a round, accepted only if one is better."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from trackrec.cli.app import run_cli
from trackrec.recipe.stages import select
from trackrec.recipe.stages.select import START
from trackrec.runs.files import RunFiles
from trackrec.storage.manifest import read_manifest
from trackrec.storage.parts import read_table

pytestmark = [pytest.mark.recipe, pytest.mark.slow]
ROUNDS = (1, 2)


@pytest.fixture(scope="module")
def chosen(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of the tiny recipe with candidates, and the finished run beside it."""
    folder = tmp_path_factory.mktemp("select")
    values: dict[str, Any] = yaml.safe_load(config.read_text())
    values["loop"] |= {"candidates": 2, "accept": "better", "texts": "played"}
    values["align"] |= {"data": {"hold": 0.3, "batch_size": 1}, "model": {"lr": 3e-2}}
    values["ctr"] |= {"arms": ["none", "reccot"], "seeds": [0], "classics": []}
    values["ctr"]["trainer"]["max_epochs"] = 1
    values["monitors"] = []
    (folder / "tiny.yaml").write_text(yaml.safe_dump({**values, "run_dir": str(folder / "run")}))
    before, sys.argv = sys.argv, ["trackrec"]
    try:
        run_cli(["fit", "--config", str(folder / "tiny.yaml")])
    finally:
        sys.argv = before
    return folder / "tiny.yaml"


def hashes(run_dir: Path) -> dict[str, str]:
    """Content of every stage."""
    paths = (path for path in run_dir.rglob("manifest.json") if ".partial" not in path.parts)
    return {str(path.parent.relative_to(run_dir)): json.loads(path.read_text())["content_hash"] for path in paths}


def weights(directory: Path) -> bytes:
    return (directory / "adapter_model.safetensors").read_bytes()


def test_the_published_adapter_is_the_best_by_the_metrics_rows(chosen: Path) -> None:
    run = chosen.parent / "run"
    start = run / "distill/adapter"
    for number in ROUNDS:
        stage, aligned = run / f"round-{number}/select", run / f"round-{number}/align"
        rows = read_table(stage, "metrics").filter(pl.col("name") == "reward")
        rewards = dict(rows.select("arm", "value").iter_rows())
        folders = {arm: aligned / "candidates" / arm[-1] for arm in rewards if arm != START}
        assert list(folders) == ["candidate-1", "candidate-2"]
        assert weights(folders["candidate-1"]) != weights(folders["candidate-2"]) == weights(aligned / "adapter")
        best = max(folders, key=rewards.__getitem__)
        due = folders[best] if rewards[best] > rewards[START] else start
        assert weights(stage / "adapter") == weights(due)
        manifest = read_manifest(stage)
        assert manifest is not None
        assert manifest.notes["taken"] == (best if due != start else START)
        differences = read_table(stage, "metrics").filter(pl.col("name") == "reward_minus_start")
        for arm, value in differences.select("arm", "value").iter_rows():
            assert value == pytest.approx(rewards[arm] - rewards[START], abs=1e-6)
        start = stage / "adapter"
        log = RunFiles(run, yaml.safe_load(chosen.read_text())).step_logs(f"round-{number}/align")
        assert log is not None
        assert log["valid/loss"].drop_nulls().len() >= 3


def test_no_result_is_shown_on_rows_that_chose(chosen: Path) -> None:
    run = chosen.parent / "run"
    users = read_table(run / "data", "samples").select("sample_id", "user_id")

    def scored(folder: str) -> set[str]:
        return set(read_table(run / folder, "scores").join(users, on="sample_id")["user_id"])

    choosing = {user for number in ROUNDS for user in scored(f"round-{number}/select/start")}
    shown = {user for name in ("warmup", "round-1", "round-2", "plain") for user in scored(f"{name}/evaluate")}
    assert choosing
    assert shown
    assert not choosing & shown


def test_the_report_says_which_was_taken(chosen: Path) -> None:
    report = (chosen.parent / "run/report/report.md").read_text()
    assert "minus the start's" in report
    assert "Preference sets held back from the training" in report
    assert "Not done yet" not in report


def test_a_rerun_is_up_to_date_and_one_cut_inside_select_ends_the_same(
    chosen: Path, tmp_path: Path, trackrec: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut between align and select, and once more after the first texts of select."""
    run, copy = chosen.parent / "run", tmp_path / "run"
    shutil.copytree(run, copy)
    for stage in hashes(copy):
        if stage.startswith("round-2") and not stage.endswith(("sample", "score", "preferences", "align")):
            shutil.rmtree(copy / stage)
    asked = ("fit", "--config", str(chosen), "--run_dir", str(copy))
    assert "starts" not in trackrec("fit", "--config", str(chosen))
    wrote: list[Any] = []

    def cut(*args: Any, **kwargs: Any) -> Any:
        if wrote:
            raise KeyboardInterrupt
        wrote.append(write_texts(*args, **kwargs))
        return wrote[-1]

    write_texts = select.write_texts
    with monkeypatch.context() as patch:
        patch.setattr(select, "write_texts", cut)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            trackrec(*asked)
    assert wrote
    assert not (copy / "round-2/select").exists()
    assert "round-2/select" in [
        line.split("] ")[1].split()[0] for line in trackrec(*asked).splitlines() if "goes on" in line
    ]
    assert hashes(copy) == hashes(run)
