"""A sweep of the tiny recipe, really killed: it goes on, equal stages are made once, a failed run is left out."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from forks import trackrec_fork
from watching import processes, wait_for

from trackrec.cli.app import run_cli
from trackrec.storage.manifest import read_manifest

pytestmark = [pytest.mark.recipe, pytest.mark.slow]
BEFORE = ("data", "teacher", "distill", "round-1/sample", "round-1/score", "round-1/align", "round-1/greedy")


@pytest.fixture(scope="module")
def folder(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``one.yaml``, one round of the tiny recipe; ``fast.yaml``, which tunes V faster; ``broken.yaml``."""
    folder = tmp_path_factory.mktemp("sweep")
    values: dict[str, Any] = yaml.safe_load(config.read_text())
    values["loop"] |= {"rounds": 1, "warmup": False, "warmup_users": None, "texts": "played"}
    values["ctr"] |= {"arms": ["none", "reccot"], "seeds": [0], "classics": []}
    values["ctr"]["trainer"]["max_epochs"] = 1
    fast = {"rec_tune": {"model": {"lr": 0.02}}}
    broken = {"teacher": {"init_args": {"path": str(folder / "nowhere.csv")}}}
    for name, keys in {"one": values, "fast": fast, "broken": broken}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(keys))
    return folder


def arguments(folder: Path, out: str, *variants: str) -> list[str]:
    files = [str(folder / f"{name}.yaml") for name in variants]
    return ["--config", str(folder / "one.yaml"), "--variants", *files, "--seeds", "1", "--output", str(folder / out)]


def sweep(folder: Path, out: str, *variants: str) -> str:
    """Run it to its end in this process; returns the table."""
    before, sys.argv = sys.argv, ["trackrec"]
    try:
        run_cli(["sweep", *arguments(folder, out, *variants)])
    finally:
        sys.argv = before
    return (folder / out / "sweep.md").read_text().split("\n", 1)[1]


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> str:
    return sweep(folder, "whole", "fast")


def test_equal_stages_are_made_once(undisturbed: str, folder: Path) -> None:
    runs = folder / "whole"
    said = (runs / "fast-seed1.log").read_text().splitlines()
    taken = [line.split("] ")[1].split()[0] for line in said if " taken from " in line]
    made = [line.split("] ")[1].split()[0] for line in said if line.endswith(" starts")]
    assert set(BEFORE) | {"texts", "embed", "ctr"} <= set(taken)
    assert made == ["round-1/rec_tune", "round-1/evaluate", "plain/rec_tune", "plain/evaluate"]
    adapters = [runs / f"{name}-seed1/distill/adapter/adapter_model.safetensors" for name in ("base", "fast")]
    assert adapters[0].samefile(adapters[1])  # a hard link, no second copy
    settings = yaml.safe_load((runs / "fast-seed1/data/config.yaml").read_text())
    assert settings["rec_tune"]["model"]["lr"] == 0.02  # a run's own, also beside what it took over


def test_the_table_holds_the_difference(undisturbed: str, folder: Path) -> None:
    rows = pl.read_csv(folder / "whole/sweep.csv")
    tuned = rows.filter((pl.col("variant") == "fast") & pl.col("outcome").str.starts_with("V's AUC")).row(0, named=True)
    base = rows.filter((pl.col("variant") == "base") & pl.col("outcome").str.starts_with("V's AUC")).row(0, named=True)
    assert tuned["difference"] == pytest.approx(tuned["value"] - base["value"])
    assert tuned["difference"] != 0
    assert tuned["difference_low"] < tuned["difference"] < tuned["difference_high"]
    ctr = rows.filter((pl.col("variant") == "fast") & pl.col("outcome").str.contains("CTR")).row(0, named=True)
    assert (ctr["difference"], ctr["difference_low"], ctr["difference_high"]) == (0, 0, 0)
    assert len(pl.read_csv(folder / "whole/runs.csv")) == 8
    assert "difference to base" in undisturbed


def children(run_dir: Path) -> list[int]:
    """Processes that work on a run directory."""
    return processes(b"fit", run_dir)


def test_a_killed_sweep_ends_with_the_same_table(
    undisturbed: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = trackrec_fork("sweep", *arguments(folder, "killed", "fast"))
    run_dir = folder / "killed/base-seed1"
    wait_for((folder / "killed/.owner.json").exists)
    with pytest.raises(SystemExit):
        sweep(folder, "killed", "fast")
    assert "--output" in (refused := capsys.readouterr().err)
    assert f"is in use by process {process.pid} on" in refused
    wait_for((run_dir / "round-1/sample/manifest.json").exists)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not children(run_dir), 20)
    assert read_manifest(run_dir / "ctr") is None  # it was cut off
    assert sweep(folder, "killed", "fast") == undisturbed
    assert "round-1/sample       up to date" in (folder / "killed/base-seed1.log").read_text()


def test_a_failed_run_is_named_and_left_out(undisturbed: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        sweep(folder, "whole", "broken")
    assert stop.value.code == 1
    said = capsys.readouterr()
    assert "broken-seed1 failed: teacher.init_args.path: no file" in said.out
    assert "1 of 2 runs failed and are left out: broken-seed1" in said.err
    text = (folder / "whole/sweep.md").read_text()
    assert "failed and left out: broken-seed1" in text
    assert [line for line in text.splitlines() if line.startswith("| base")] == [
        line for line in undisturbed.splitlines() if line.startswith("| base")
    ]
    assert text.count("| broken | – | – | 0 |") == 4
