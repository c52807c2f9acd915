"""What was made before the rooms: class paths of then resolve, and a run of then is reported, asked and exported.

`tests/old_runs/run_2749ee3.tar.gz` holds a small whole run that commit 2749ee3 made, the ratings it read, an export,
and what `trackrec predict` answered then (expected.parquet).
"""

from __future__ import annotations

import importlib
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from trackrec.cli.app import parse_values, run_cli
from trackrec.cli.old_paths import MOVED

RUN = Path(__file__).parents[1] / "old_runs" / "run_2749ee3.tar.gz"
QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
pytestmark = pytest.mark.slow


@pytest.fixture
def old_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tiny_model_dir: Path
) -> Callable[..., str]:
    """Runs a command on the old run; returns what it printed."""
    with tarfile.open(RUN) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)

    def run(command: str, *args: str) -> str:
        monkeypatch.setattr(sys, "argv", ["trackrec"])
        capfd.readouterr()
        run_cli([command, "--config", "run/ctr/config.yaml", "--backbone.model", str(tiny_model_dir), *args])
        return capfd.readouterr().out

    return run


def test_a_report_of_it_is_written(old_run: Callable[..., str]) -> None:
    assert "The report is run/report/index.html" in old_run("report")
    text = Path("run/report/report.md").read_text()
    assert "DIN + RecCoT" in text
    assert "The test split was read once in this run directory." in text
    assert "S-DPO" in text


@pytest.mark.parametrize(
    "command", [["predict", "--requests", "in.parquet", "--output", "out.parquet"], ["export", "--output", "again"]]
)
def test_its_nets_are_refused_with_their_version(
    old_run: Callable[..., str], capfd: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """They read features that today's tables don't hold; nothing is written."""
    with pytest.raises(SystemExit):
        old_run(*command)
    message = " ".join(capfd.readouterr().err.split())
    assert "the nets in run/ctr were trained by trackrec 0.1.0, whose features were others" in message
    assert "Run `trackrec fit` to train them again" in message
    assert not Path(command[-1]).exists()


def test_its_export_is_refused(old_run: Callable[..., str]) -> None:
    from trackrec.serving.bundle import open_bundle

    with pytest.raises(ValueError, match=r"export is an export of an earlier version: .*Write one with `trackrec"):
        open_bundle(Path("export"))


def test_a_fit_of_it_says_that_the_code_is_another_by_running_again(old_run: Callable[..., str]) -> None:
    """Nothing of it is taken for today's: the fingerprints of then were made in another way."""
    assert "data                 starts" in old_run("fit", "--stages", "data", "--embed.model", "bert-base-uncased")


def test_every_moved_module_is_where_the_table_says() -> None:
    for new in MOVED.values():
        assert importlib.import_module(new).__name__ == new


def test_a_class_path_of_before_is_resolved_with_a_notice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for old in MOVED:
        monkeypatch.delitem(sys.modules, old, raising=False)
    overlay = tmp_path / "old.yaml"
    overlay.write_text(
        "ctr: {net: {class_path: trackrec.ctr.deepfm.DeepFM}, connector: {class_path: trackrec.ctr.hea.HEAConnector}}\n"
        "sampler: {class_path: trackrec.llm.hf_sampler.HFSampler, init_args: {n: 4}}\n"
        "dataset: {class_path: trackrec.interactions.simulated.Simulated}\n"
    )
    values = parse_values([QUICKSTART, overlay])
    assert values["ctr"]["net"]["class_path"] == "trackrec.ctr.DeepFM"
    assert values["ctr"]["connector"]["class_path"] == "trackrec.ctr.HEAConnector"
    assert values["sampler"]["class_path"] == "trackrec.llm.sampling.hf_sampler.HFSampler"
    said = capsys.readouterr().err
    assert "trackrec.llm.hf_sampler is trackrec.llm.sampling.hf_sampler now" in said
    assert importlib.import_module("trackrec.ctr.deepfm").__spec__.name == "trackrec.ctr.nets.deepfm"  # type: ignore[union-attr]
