"""``devices: 2`` on the real command line: two processes for the trainings, one run, one of everything on the disk."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from forks import Fork, trackrec_fork
from watching import processes, wait_for

from trackrec.cli.app import run_cli
from trackrec.storage.manifest import read_manifest

pytestmark = pytest.mark.recipe
SMALL = ["--loop.rounds", "1", "--loop.warmup", "false"]
TWO = [f"--{section}.trainer.devices=2" for section in ("align", "rec_tune")]
TWO += [f"--{section}.trainer.log_every_n_steps=1" for section in ("align", "rec_tune")]
TWO += ["--align.trainer.strategy=ddp", "--align.data.batch_size=2", "--rec_tune.data.batch_size=2"]


def start(config: Path, run_dir: Path, *more: str) -> Fork:
    command = ["fit", "--config", str(config), "--run_dir", str(run_dir)]
    return trackrec_fork(*command, *SMALL, *more, cwd=run_dir.parent)


def fit(config: Path, run_dir: Path, *more: str) -> tuple[int, str, str]:
    process = start(config, run_dir, *more)
    out, error = process.communicate(timeout=500)
    return process.wait(), out, error


def workers(run_dir: Path) -> list[int]:
    """Processes of stages of a run directory."""
    return processes(b"trackrec.cli.worker", run_dir)


@pytest.fixture(scope="module")
def finished(config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run with two processes, and what it said."""
    run_dir = tmp_path_factory.mktemp("devices") / "run"
    code, out, error = fit(config, run_dir, *TWO)
    assert code == 0, error[-3000:]
    return run_dir, out


@pytest.mark.slow
def test_two_processes_train_and_one_run_writes(finished: tuple[Path, str], config: Path) -> None:
    run_dir, out = finished
    for stage in ("round-1/align", "round-1/rec_tune", "plain/rec_tune"):
        manifest = read_manifest(run_dir / stage)
        assert manifest is not None
        assert manifest.notes["effective_batch"] == 4
        assert manifest.peak_memory_bytes > 100 << 20  # of a process that trained
        assert sorted(path.name for path in (run_dir / stage / "adapter").iterdir()) == [
            "adapter_config.json",
            "adapter_model.safetensors",
        ]
        logs = {path.name for path in (run_dir / stage / "logs").iterdir()}
        assert logs - {"monitors"} == {"metrics.csv"}
    assert out.count("effective batch 4: 2 examples, accumulated 1 times, in 2 process(es)") == 3
    assert out.count("round-1/align        starts") == 1
    assert "DIN + RecCoT" in out
    assert list((run_dir / ".partial").iterdir()) == []
    assert workers(run_dir) == []
    code, again, _ = fit(config, run_dir, *TWO)
    assert code == 0
    assert " starts" not in again


def without_align(run_dir: Path, tmp_path: Path) -> Path:
    """A copy of the run in which S-DPO is still to be done."""
    copy = Path(shutil.copytree(run_dir, tmp_path / "copy"))
    shutil.rmtree(copy / "round-1" / "align")
    return copy


def is_training(run_dir: Path) -> bool:
    return bool(list((run_dir / ".partial").glob("round-1--align-*/logs/version_0")))


@pytest.mark.slow
def test_a_killed_run_leaves_no_process_and_goes_on(finished: tuple[Path, str], config: Path, tmp_path: Path) -> None:
    due = read_manifest(finished[0] / "round-1/align")
    run_dir = without_align(finished[0], tmp_path)
    run = start(config, run_dir, *TWO)
    wait_for(lambda: is_training(run_dir))
    assert len(workers(run_dir)) == 2
    run.send_signal(signal.SIGKILL)
    run.communicate()
    wait_for(lambda: not workers(run_dir), 10)
    code, out, error = fit(config, run_dir, *TWO)
    assert code == 0, error
    assert "round-1/align        goes on" in out
    found = read_manifest(run_dir / "round-1/align")
    assert found is not None
    assert due is not None
    assert found.content_hash == due.content_hash


@pytest.mark.slow
def test_a_lost_process_ends_the_stage_with_a_clear_error(
    finished: tuple[Path, str], config: Path, tmp_path: Path
) -> None:
    run_dir = without_align(finished[0], tmp_path)
    run = start(config, run_dir, *TWO)
    wait_for(lambda: is_training(run_dir))
    os.kill(max(workers(run_dir)), signal.SIGKILL)
    _, error = run.communicate(timeout=120)
    assert run.returncode == 1
    assert "stage round-1/align: process" in error
    assert "of 2 was killed by signal 9. Signal 9 often means that the machine's memory was full." in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) <= 5
    assert workers(run_dir) == []
    assert not (run_dir / "round-1/align").exists()


@pytest.mark.slow
def test_an_error_in_a_process_is_the_error_of_the_run(config: Path, tmp_path: Path) -> None:
    more = ["--distill.trainer.devices=2", "--distill.model.lr=1e30", "--stages", '["data", "teacher", "distill"]']
    code, _, error = fit(config, tmp_path / "run", *more)
    assert code == 1
    assert "Traceback" not in error
    assert "loss is nan" in error or "not finite" in error
    assert "distill.model.lr" in error
    assert len(error.strip().splitlines()) <= 5
    assert workers(tmp_path / "run") == []


@pytest.mark.slow
def test_a_scheduler_that_ends_a_training_loses_at_most_a_checkpoints_steps(config: Path, tmp_path: Path) -> None:
    """SIGTERM, as SLURM sends it before the time is up: the step is finished, and the same command goes on."""
    stages = ["--stages", '["data", "teacher", "distill"]']
    run_dir = tmp_path / "run"
    run = start(config, run_dir, *stages)
    wait_for(lambda: list((run_dir / ".partial").glob("distill-*/checkpoints/last.ckpt")))
    run.send_signal(signal.SIGTERM)
    _, error = run.communicate(timeout=60)
    assert run.returncode == 130, error
    assert "interrupted: the same command goes on where this stopped" in error
    code, out, _ = fit(config, run_dir, *stages)
    assert code == 0
    assert "distill              goes on" in out
    assert fit(config, tmp_path / "whole", *stages)[0] == 0
    found, due = read_manifest(run_dir / "distill"), read_manifest(tmp_path / "whole/distill")
    assert found is not None
    assert due is not None
    assert found.content_hash == due.content_hash


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--ctr.trainer.devices=2", "ctr.trainer.devices must be auto or 1, got '2'"),
        ("--align.trainer.num_nodes=2", "align.trainer.num_nodes must be 1, got 2"),
        ("--distill.trainer.strategy=fsdp", "distill.trainer.strategy must be auto or ddp, got fsdp"),
        ("--rec_tune.trainer.devices=-1", "rec_tune.trainer.devices must be auto, a number of devices"),
    ],
)
def test_what_is_refused_is_refused_before_anything_runs(
    flag: str,
    words: str,
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["trackrec"])
    with pytest.raises(SystemExit):
        run_cli(["fit", "--config", str(config), "--run_dir", str(tmp_path / "run"), flag])
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
