"""A configuration of three keys: run_dir, dataset, backbone. Every other key has a default."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from trackrec.cli.app import parse_values

pytestmark = pytest.mark.recipe
# A default's arguments of one class must not reach another class that a later file names.
OTHERS = {
    "sampler": {"class_path": "HFSampler", "init_args": {"n": 5}},
    "teacher": {"class_path": "OpenAITeacher", "init_args": {"model": "some-model"}},
    "ctr": {"net": "DeepFM", "connector": None},
}


@pytest.fixture
def three(tmp_path: Path, config: Path, tiny_models: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    values: dict[str, Any] = {
        "run_dir": "run",
        "dataset": {"class_path": "MovieLens", "init_args": {"root": str(config.parent / "ml-100k")}},
        "backbone": {"model": str(tiny_models("llama")), "dtype": "float32"},
    }
    Path("three.yaml").write_text(yaml.safe_dump(values))
    return Path("three.yaml")


def test_the_defaults_are_shown_and_give_way(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["trackrec"])
    found = parse_values([three])
    short = {key: found[key]["class_path"].rsplit(".", 1)[-1] for key in ("sampler", "teacher")}
    assert short == {"sampler": "AutoSampler", "teacher": "ProfileTeacher"}
    assert [found["ctr"][key]["class_path"].rsplit(".", 1)[-1] for key in ("net", "connector")] == [
        "DIN",
        "MLPConnector",
    ]
    Path("others.yaml").write_text(yaml.safe_dump(OTHERS))
    found = parse_values([three, Path("others.yaml")])
    assert found["sampler"]["init_args"]["n"] == 5
    assert found["sampler"]["init_args"]["batch_tokens"] == 32768
    assert found["teacher"]["init_args"]["fraction"] == 0.05
    assert found["ctr"]["net"]["class_path"].rsplit(".", 1)[-1] == "DeepFM"
    assert "softmax" not in found["ctr"]["net"]["init_args"]
    assert found["ctr"]["connector"] is None
    Path("table.yaml").write_text("teacher: {class_path: TableTeacher, init_args: {path: texts.csv}}")
    assert parse_values([three, Path("table.yaml")])["teacher"]["init_args"]["fraction"] == 1.0


def test_three_keys_plan_and_run(three: Path, config: Path, trackrec: Callable[..., str]) -> None:
    """The sizes are made small on the command line; nothing else is given."""
    assert "sample" in trackrec("plan", "--config", str(three))
    small = [
        "--loop.rounds",
        "1",
        "--sampler.init_args.n",
        "2",
        "--sampler.init_args.max_new_tokens",
        "8",
        "--loop.align",
        "false",
    ]
    small += ["--ctr.seeds", "[0]", "--ctr.trainer.max_epochs", "1", "--embed.model", str(config.parent / "encoder")]
    printed = trackrec("fit", "--config", str(three), *small)
    assert "DIN" in printed
    assert Path("run/ctr/manifest.json").exists()
