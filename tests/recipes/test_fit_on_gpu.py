"""The whole recipe on a GPU: the same command, the same tables."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from trackrec.cli.app import run_cli
from trackrec.storage.manifest import read_manifest
from trackrec.storage.parts import read_table

pytestmark = [pytest.mark.recipe, pytest.mark.gpu]


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_fit_and_test(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantize: str) -> None:
    monkeypatch.setattr("sys.argv", ["trackrec"])
    values = yaml.safe_load(config.read_text())
    values["run_dir"] = str(tmp_path / "run")
    values["backbone"] |= {"quantize": quantize, "dtype": "bfloat16", "gradient_checkpointing": True}
    for stage in ("distill", "align", "rec_tune", "ctr"):
        values[stage]["trainer"] |= {"accelerator": "gpu"}
        if stage != "ctr":
            values[stage]["trainer"]["precision"] = "bf16-mixed"
    path = tmp_path / "gpu.yaml"
    path.write_text(yaml.safe_dump(values))
    run_cli(["fit", "--config", str(path)])
    run_cli(["test", "--config", str(path)])
    for stage in ("distill", "round-1/align", "round-2/rec_tune"):
        notes = read_manifest(tmp_path / "run" / stage).notes
        assert notes["optimizer_steps"] > 0
    arms = set(read_table(tmp_path / "run" / "test", "metrics")["arm"].to_list())
    assert {"none", "reccot", "shuffled"} <= arms
