"""Every shipped config parses, and names only what exists."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from jsonargparse import Namespace

from trackrec.cli import parse_objects

CONFIGS = sorted(Path(__file__).parent.parent.joinpath("configs").rglob("*.yaml"))


def parse(path: Path, monkeypatch: pytest.MonkeyPatch) -> Namespace:
    monkeypatch.setattr(sys, "argv", ["trackrec"])
    return parse_objects(["fit", "--config", str(path)])


def test_the_configs_are_found() -> None:
    assert {path.stem for path in CONFIGS} == {"quickstart", "ml100k", "movielens", "movielens_12gb", "amazon_books"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_parses(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = parse(path, monkeypatch)
    given = yaml.safe_load(path.read_text())
    assert objects.loop.rounds == given["loop"]["rounds"]
    assert objects.sampler.n == given["sampler"]["init_args"]["n"]
    assert str(objects.run_dir) == given["run_dir"]


def test_run_dirs_differ() -> None:
    assert len({yaml.safe_load(path.read_text())["run_dir"] for path in CONFIGS}) == len(CONFIGS)


def test_the_papers_settings_stand_in_movielens_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    path = next(path for path in CONFIGS if path.stem == "movielens")
    objects = parse(path, monkeypatch)
    sampler = objects.sampler
    assert (sampler.n, sampler.temperature, sampler.top_p, objects.loop.rounds) == (10, 1.0, 0.9, 3)
    assert (objects.backbone.model, objects.backbone.quantize) == ("Qwen/Qwen2.5-7B-Instruct", "nf4")
    assert objects.embed.model == "bert-base-uncased"
