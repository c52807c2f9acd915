"""The simulated world through the real command line: two steps per training, then its truth."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest

from trackrec.cli.app import run_cli
from trackrec.storage.parts import read_table

pytestmark = [pytest.mark.recipe, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/experiments/simulated.yaml"
SMALL = {
    "dataset.init_args.users": 60,
    "dataset.init_args.items": 130,
    "backbone.model": ROOT / "models/world-1m",
    "embed.model": ROOT / "models/world-1m",
    "sampler.init_args.n": 3,
    "sampler.init_args.max_new_tokens": 24,
    "loop.rounds": 1,
    "loop.users": 0.2,
    "loop.warmup_users": 0.3,
    "loop.targets": 2,
    "loop.eval_samples": 40,
    "align.sets.min_spread": 0.0,
    "align.sets.min_best": 0.0,
    "distill.trainer.max_steps": 2,
    "align.trainer.max_steps": 2,
    "rec_tune.trainer.max_steps": 2,
    "ctr.trainer.max_epochs": 1,
    "ctr.seeds": [0],
    "monitors": [],  # after two steps G writes one text for most, and Collapse says so
}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("simulated") / "run"
    flags = [part for key, value in SMALL.items() for part in (f"--{key}", str(value))]
    before, sys.argv = sys.argv, ["trackrec"]
    try:
        run_cli(["fit", "--config", str(CONFIG), "--run_dir", str(directory), *flags])
    finally:
        sys.argv = before
    return directory


@pytest.fixture(scope="module")
def world_truth() -> ModuleType:
    spec = importlib.util.spec_from_file_location("world_truth", ROOT / "scripts/world_truth.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_loop_runs_to_its_end(run_dir: Path) -> None:
    metrics = read_table(run_dir / "round-1/evaluate", "metrics")
    assert {"scorer", "tuned", "other", "texts"} == set(metrics["arm"])
    assert {"none", "reccot", "shuffled"} <= set(read_table(run_dir / "ctr", "metrics")["arm"])
    texts = read_table(run_dir / "texts", "reccots")
    assert texts.height == read_table(run_dir / "data", "histories").height


def test_no_table_of_the_run_tells_the_truth(run_dir: Path) -> None:
    """A run's data stage holds titles, years, genres and ratings; nothing else has a column to stand in."""
    items, users = (read_table(run_dir / "data", name) for name in ("items", "users"))
    assert items.columns == ["item_id", "title", "attributes", "year"]
    assert users.filter(pl.col("attributes").list.len() > 0).is_empty()


def test_the_ceilings_stand_in_the_metrics_and_the_report(run_dir: Path) -> None:
    metrics = read_table(run_dir / "data", "metrics")
    found = dict(metrics.filter(pl.col("split") == "valid").select("name", "value").iter_rows())
    assert 0.5 < found["told_auc"] < found["bayes_auc"] < 1
    assert 0.5 < found["told_acc"] < found["bayes_acc"] < 1
    page = (run_dir / "report/index.html").read_text()
    assert f"ceiling: {found['bayes_auc']:.4f}".replace("0.", ".") in page
    assert f"best reader: {found['told_auc']:.4f}".replace("0.", ".") in page


def test_the_truth_of_finished_runs_is_printed(
    run_dir: Path, world_truth: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world_truth, "RESAMPLES", 20)
    monkeypatch.setattr(sys, "argv", ["world_truth.py", str(run_dir), str(run_dir)])
    world_truth.main()
    printed = capsys.readouterr().out
    assert printed.startswith("\n2 run(s)")
    for line in ("the truth", "V after round 1", "1 | warmup/rec_tune", "G of round 1, greedy", "sampled in round 1"):
        assert f"| {line}" in printed
    # The run stands twice in the table: mean and both values are the same.
    mean, *values = re.search(r"\| the truth \| (\S+) \[.*?\] \((\S+) (\S+)\)", printed).groups()  # type: ignore[union-attr]
    assert values == [mean, mean]


def test_runs_beside_others_of_the_same_rows(
    run_dir: Path, world_truth: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world_truth, "RESAMPLES", 20)
    monkeypatch.setattr(sys, "argv", ["world_truth.py", str(run_dir), "--against", str(run_dir)])
    world_truth.main()
    last = capsys.readouterr().out.strip().splitlines()
    assert len(last) == 4
    assert all(line.endswith("| 0.0000 [0.0000, 0.0000] |") for line in last[2:])
    monkeypatch.setattr(sys, "argv", ["world_truth.py", str(run_dir), "--against", str(run_dir), str(run_dir)])
    with pytest.raises(SystemExit, match="--against: the other runs scored other rows"):
        world_truth.main()


def test_other_data_has_no_truth(run_dir: Path, world_truth: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(SystemExit, match="only a Simulated world has a truth"):
        world_truth.load(tmp_path)
