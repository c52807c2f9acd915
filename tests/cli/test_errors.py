"""What the user can mend is short and clear; a fault of trackrec's keeps its traceback and says where to report it."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trackrec.cli.app import run_cli
from trackrec.cli.errors import mendable
from trackrec.llm.loading import BackboneSettings, load_or_explain
from trackrec.runtime.errors import DivergedError, MissingFileError, SettingError, TrackRecError
from trackrec.runtime.packages import MissingPackageError, need
from trackrec.runtime.trainer_errors import trainer_arguments, trainer_setup

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "quickstart.yaml")


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_model_dir: Path
) -> Callable[..., list[str]]:
    """Runs ``trackrec fit`` on the quickstart with a tiny model; returns the lines of its error."""

    def run(*args: str) -> list[str]:
        models = ("--backbone.model", str(tiny_model_dir), "--run_dir", str(tmp_path / "run"))
        models += ("--embed.model", "bert-base-uncased")
        monkeypatch.setattr(sys, "argv", ["trackrec"])
        with pytest.raises(SystemExit) as stop:
            run_cli(["fit", "--config", CONFIG, *models, "--stages", "data", *args])
        assert stop.value.code == 1
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines[0] == "trackrec: error:"
        assert len(lines) <= 5
        return lines

    return run


def test_1_a_missing_file_is_named_with_its_key(command: Callable[..., list[str]], tmp_path: Path) -> None:
    (line, *_) = command("--dataset.init_args.root", str(tmp_path / "nowhere"))[1:]
    assert "dataset.init_args.root" in line
    assert "nowhere" in line


def test_2_a_full_disk_says_what_stays_and_what_to_do(
    command: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("trackrec.storage.atomic.os.fsync", full)
    monkeypatch.setattr("trackrec.interactions.sources.movielens.MovieLens.content_key", lambda self: {})
    assert command()[1:] == [
        "No space left on device: while a stage was written",
        "What is done stays. Make room and run the same command again: it goes on where this stopped.",
    ]


def test_3_a_missing_permission_names_the_place(
    command: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(self: Path, *args: Any, **kwargs: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    with monkeypatch.context() as patch:
        patch.setattr("trackrec.pipeline.lock.Path.mkdir", refused)
        lines = command()
    assert lines[1] == f"Permission denied: {tmp_path / 'run'}"
    assert lines[2].startswith("What is done stays. Mend that and run the same command again")


def test_4_a_model_that_can_t_be_loaded_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    settings = BackboneSettings(model=str(tmp_path))
    with pytest.raises(SettingError, match=r"backbone\.model .* can't be loaded") as found:
        load_or_explain(settings, torch.float32, torch.device("cpu"))
    assert len(mendable(found.value)) <= 5
    with pytest.raises(MissingFileError, match=r"backbone\.model: no model .* in '\./nowhere'"):
        BackboneSettings(model="./nowhere").check_path("backbone")


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")]
)
def test_5_full_memory_says_which_command_helps(error: Exception) -> None:
    lines = mendable(error)
    assert lines[1].startswith("memory is full: ")
    assert "`trackrec plan`" in lines[2]
    assert len(lines) == 4


@pytest.mark.parametrize(
    "arguments", [{"precision": "nonsense"}, {"max_epochs": 1, "accelerator": "abacus"}, {"overfit_batches": -1}]
)
def test_6_a_misconfigured_trainer_is_named_by_its_section(arguments: dict[str, Any]) -> None:
    from lightning.pytorch import Trainer

    with pytest.raises(SettingError, match=r"^align\.trainer: ") as found, trainer_arguments("align.trainer"):
        Trainer(logger=False, enable_checkpointing=False, **arguments)
    assert len(mendable(found.value)) <= 5


def test_6_a_trainer_that_refuses_only_when_it_runs_too() -> None:
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    with pytest.raises(SettingError, match=r"^ctr\.trainer: no such thing"), trainer_setup("ctr.trainer"):
        raise MisconfigurationException("no such thing")
    with pytest.raises(ValueError, match="shapes") as found, trainer_setup("ctr.trainer"):
        raise ValueError("shapes")
    assert mendable(found.value) == []


def test_7_a_missing_package_says_what_to_install() -> None:
    with pytest.raises(MissingPackageError) as found:
        need("trackrec export", "export", "no_such_package")
    assert mendable(found.value) == [
        "trackrec: error:",
        "trackrec export needs no_such_package: pip install 'trackrec[export]'",
    ]


def test_a_fault_keeps_its_traceback_and_says_where_to_report_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """NumPy raises a ValueError for shapes that don't fit, as it would for a fault of ours."""
    from trackrec.commands import fit

    def planted(call: object) -> None:
        np.zeros(3) + np.zeros(4)

    monkeypatch.setattr(fit, "run", planted)
    monkeypatch.setattr(sys, "argv", ["trackrec"])
    with pytest.raises(ValueError, match="could not be broadcast together") as found:
        run_cli(["fit", "--config", CONFIG])
    assert "Please report it" in found.value.__notes__[0]
    assert "trackrec: error:" not in capsys.readouterr().err


@pytest.mark.parametrize("error", [ImportError("cannot import name 'x'"), KeyError("x"), RuntimeError("shapes")])
def test_so_do_faults_of_other_classes(error: Exception) -> None:
    assert mendable(error) == []


@pytest.mark.parametrize(
    ("made", "second"), [(SettingError, ValueError), (MissingFileError, OSError), (DivergedError, FloatingPointError)]
)
def test_what_can_be_mended_is_of_the_built_in_class_too(made: type[TrackRecError], second: type[Exception]) -> None:
    error = made("align.model.lr must be above 0, got -1.")
    assert isinstance(error, second)
    assert str(error) == "align.model.lr must be above 0, got -1."


def test_every_error_of_the_package_is_one_that_can_be_mended() -> None:
    """But `WorkerError`, whose message is the traceback of another process, and what a server answers with."""
    from importlib import import_module

    from trackrec.pipeline.source_code import package_modules

    made = set()
    for name in package_modules():
        if not name.startswith(("trackrec.llm.vllm.child", "trackrec.__main__", "trackrec.cli.worker")):
            values = vars(import_module(name)).values()
            made |= {v for v in values if isinstance(v, type) and issubclass(v, Exception) and v.__module__ == name}
    assert {error.__name__ for error in made if not issubclass(error, TrackRecError)} == {"WorkerError", "ProblemError"}
    assert len(made) > 15


def test_the_trainers_of_both_kinds_are_built_under_it(tmp_path: Path) -> None:
    from trackrec.ctr.training.train import trainer_of

    build = partial(trainer_of, {"precision": "nonsense"}, tmp_path, [])
    with pytest.raises(SettingError, match=r"^ctr\.trainer: "):
        build()


@pytest.mark.parametrize(("section", "hold"), [("rec_tune", "0"), ("distill", "0"), ("align", "0.1")])
def test_a_validation_that_will_not_run_may_not_be_watched(
    command: Callable[..., list[str]], section: str, hold: str
) -> None:
    """It is said before the first stage, and not when the training starts."""
    stopping = '[{"class_path":"lightning.pytorch.callbacks.EarlyStopping","init_args":{"monitor":"valid/loss"}}]'
    (line,) = command("--loop.hold", hold, f"--{section}.trainer.callbacks", stopping)[1:]
    assert line.startswith(f"{section}.trainer.callbacks: EarlyStopping watches 'valid/loss', but nothing is held back")
    assert f"set {'align.data.hold' if section == 'align' else 'loop.hold'} above 0" in line
