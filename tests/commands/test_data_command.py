"""``trackrec data``: a look at the ratings that needs no model and leaves nothing behind."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from trackrec.cli.app import parse_objects, run_cli
from trackrec.commands.data import look
from trackrec.report.numbers import RunNumbers
from trackrec.report.sections.data import run_facts

SIMULATED = Path(__file__).parents[2] / "configs" / "experiments" / "simulated.yaml"


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A small world, with a model that nobody has and a GPU that isn't there."""
    values: dict[str, Any] = yaml.safe_load(SIMULATED.read_text())
    values["run_dir"] = str(tmp_path / "run")
    values["dataset"]["init_args"] = {"users": 60, "items": 120, "seed": 1}
    values["backbone"] = {"model": "no/such-model", "device": "cuda"}
    values["embed"] = {"model": "no/such-encoder"}
    values["distill"]["trainer"] = {"accelerator": "gpu", "devices": 8}
    path = tmp_path / "world.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def test_it_is_one_screen_and_leaves_nothing_behind(config: str, trackrec: Callable[..., str], tmp_path: Path) -> None:
    lines = trackrec("data", "--config", config).splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 100
    assert " by 60 users of 120 items" in lines[0]
    assert any(line.startswith("  G  A viewer. Liked ") for line in lines)
    assert any(line.startswith("  V  The films a viewer rated, oldest first: ") for line in lines)
    assert [path.name for path in tmp_path.iterdir()] == ["world.yaml"]


def test_everything_stands_in_the_json(config: str, trackrec: Callable[..., str]) -> None:
    found = json.loads(trackrec("data", "--config", config, "--json"))
    assert (found["users"], found["items"]) == (60, 120)
    assert sum(bar["ratings"] for bar in found["histogram"]) == found["ratings"] == found["counts"]["ratings"]
    assert [split["name"] for split in found["splits"]] == ["train", "valid", "test"]
    assert len(found["histories"]) == 3
    assert "Describe the taste of this viewer in at most 40 words" in found["generator_prompt"]
    assert "Will this viewer like the next film?" in found["validator_prompt"]


@pytest.mark.slow
def test_a_run_shows_what_the_command_showed(tmp_path: Path, trackrec: Callable[..., str]) -> None:
    """From what its stage ``data`` kept."""
    small = ["--config", str(SIMULATED), "--run_dir", str(tmp_path / "run"), "--dataset.init_args.users", "60"]
    trackrec("fit", *small, "--stages", "data")
    saved = yaml.safe_load((tmp_path / "run/data/config.yaml").read_text())
    assert run_facts(RunNumbers(tmp_path / "run", saved)) == look(parse_objects(["data", *small]))
    assert "## Data" in (tmp_path / "run/report/report.md").read_text()


def test_where_a_run_would_stop_the_facts_are_shown_and_the_status_is_1(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["trackrec"])
    for flags, words in (
        (["--samples.threshold", "9"], "`trackrec fit` stops here: samples.threshold: none of the"),
        (
            ["--samples.history_len", "100", "--samples.max_history", "100"],
            "`trackrec fit` stops here: samples.history_len",
        ),
    ):
        with pytest.raises(SystemExit) as stop:
            run_cli(["data", "--config", config, *flags])
        assert stop.value.code == 1
        shown = capsys.readouterr()
        assert shown.out.splitlines()[0].startswith(
            f"{look(parse_objects(['data', '--config', config])).ratings:,} ratings"
        )
        assert words in shown.out
        assert shown.err == ""
