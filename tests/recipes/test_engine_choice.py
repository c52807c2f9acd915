"""A run with AutoSampler knows the engine that was picked."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from trackrec.cli.app import parse_objects, run_cli
from trackrec.llm.sampling.auto_sampler import AutoSampler
from trackrec.storage.manifest import read_manifest

pytestmark = pytest.mark.recipe


def test_equal_fingerprints_whether_an_engine_was_written_or_picked(
    config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["trackrec"])
    written = yaml.safe_load(config.read_text())
    picked = {**written, "sampler": {**written["sampler"], "class_path": "AutoSampler"}}
    file = tmp_path / "auto.yaml"
    file.write_text(yaml.safe_dump(picked))
    runs = []
    for path in (config, file):
        run_dir = tmp_path / path.stem
        run_cli(
            [
                "fit",
                "--config",
                str(path),
                "--run_dir",
                str(run_dir),
                "--stages",
                "[data,teacher,distill,warmup/greedy]",
            ]
        )
        runs.append(read_manifest(run_dir / "warmup/greedy"))
    assert "sampler AutoSampler is HFSampler: no GPU is used" in capfd.readouterr().out
    first, second = runs
    assert first is not None
    assert second is not None
    assert first.fingerprint == second.fingerprint
    assert isinstance(parse_objects(["fit", "--config", str(file)]).sampler, AutoSampler)
