"""Every trainer is built once before the first stage, and its arguments are looked at."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint

from trackrec.commands.early_trainers import check_adapter_trainer, check_ctr_trainer
from trackrec.runtime.errors import SettingError

CPU = torch.device("cpu")
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def adapter(section: str = "distill", hooks: tuple[Any, ...] = (), **args: Any) -> list[str]:
    """What is said of a section's trainer."""
    said: list[str] = []
    check_adapter_trainer(section, {**QUIET, **args}, CPU, hooks, said.append)
    return said


def nets(**args: Any) -> list[str]:
    """What is said of the trainer of the nets."""
    said: list[str] = []
    check_ctr_trainer({**QUIET, **args}, said.append)
    return said


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize("kind", ["gpu", "cuda"])
@pytest.mark.parametrize("check", [adapter, nets])
def test_a_gpu_that_is_not_there_is_said_at_once(no_gpu: None, kind: str, check: Any) -> None:
    key = "distill.trainer" if check is adapter else "ctr.trainer"
    with pytest.raises(SettingError, match=rf"^{key}\.accelerator is {kind}, but torch finds no such device") as found:
        check(accelerator=kind)
    assert "Set it to cpu or auto" in str(found.value)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"precision": "transformer-engine"}, r"^ctr\.trainer: "),
        ({"accelerator": "abacus"}, r"^ctr\.trainer: .*abacus"),
        ({"strategy": "fsdp"}, r"^ctr\.trainer\.strategy must be auto or ddp, got fsdp"),
        ({"devices": "many"}, r"^ctr\.trainer\.devices must be auto, a number"),
        ({"max_time": "soon"}, r"^ctr\.trainer: "),
        ({"val_check_interval": 2.5}, r"^ctr\.trainer: "),
        ({"fast_dev_run": True}, r"^ctr\.trainer\.fast_dev_run must be false, got True"),
        ({"max_epochs": 0}, r"^ctr\.trainer\.max_epochs must not be 0: nothing would be trained"),
        ({"limit_val_batches": 0}, r"^ctr\.trainer\.limit_val_batches must be above 0"),
        ({"check_val_every_n_epoch": 3, "max_epochs": 2}, r"check_val_every_n_epoch must be at most ctr.*\(2\), got 3"),
    ],
)
def test_arguments_that_would_end_the_last_stage_are_said_before_the_first(args: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        nets(**args)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"precision": "transformer-engine"}, r"^align\.trainer: "),
        ({"strategy": "fsdp"}, r"^align\.trainer\.strategy must be auto or ddp"),
        ({"accelerator": "abacus"}, r"^align\.trainer\.accelerator is abacus, but the model is on cpu"),
        ({"val_check_interval": 2.5}, r"^align\.trainer: "),
        ({"max_steps": 0}, r"^align\.trainer\.max_steps must not be 0"),
        ({"limit_train_batches": 0.0}, r"^align\.trainer\.limit_train_batches must not be 0"),
    ],
)
def test_so_are_those_of_a_language_model(args: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        adapter("align", **args)


@pytest.mark.parametrize("fast", [True, 1, 5])
def test_a_fast_dev_run_is_refused_since_it_would_count_as_done(fast: Any) -> None:
    with pytest.raises(SettingError) as found:
        adapter("rec_tune", fast_dev_run=fast)
    assert str(found.value) == (
        f"rec_tune.trainer.fast_dev_run must be false, got {fast}: it ends after a few batches, and the stage would "
        "count as done. For a short trial set rec_tune.trainer.limit_train_batches: without it, the stage is made "
        "again."
    )


def test_a_training_that_is_cut_short_is_told() -> None:
    line = "Its stages can end early and count as done; without, they are made again."
    assert adapter(limit_train_batches=2, max_steps=5) == [
        f"distill.trainer: limit_train_batches 2, max_steps 5. {line}"
    ]
    assert nets(limit_train_batches=0.5, overfit_batches=0.0) == [f"ctr.trainer: limit_train_batches 0.5. {line}"]
    # What says that everything is trained on.
    assert adapter(limit_train_batches=1.0, max_steps=-1, max_time=None, overfit_batches=0.0) == []
    assert adapter(limit_train_batches=None, fast_dev_run=False, max_epochs=3) == []


def test_arguments_in_the_fingerprint_are_why_such_a_stage_is_made_again() -> None:
    from trackrec.pipeline.fingerprint import config_value

    config = {"distill": {"trainer": {"limit_train_batches": 2, "logger": True}}}
    assert config_value(config, "distill") == {"trainer": {"limit_train_batches": 2}}


@pytest.mark.parametrize(
    ("section", "callback", "near"),
    [
        ("distill", EarlyStopping("valid/los"), " Did you mean 'valid/loss'?"),
        ("align", ModelCheckpoint(monitor="valid/auc"), " Did you mean 'valid/accuracy'?"),
        ("rec_tune", EarlyStopping("qqq"), ""),
        ("ctr", EarlyStopping("valid/loss"), " Did you mean 'valid/log_loss'?"),
    ],
)
def test_a_value_that_is_never_logged_cannot_be_watched(section: str, callback: Callback, near: str) -> None:
    check = nets if section == "ctr" else partial(adapter, section)
    with pytest.raises(SettingError) as found:
        check(callbacks=[callback])
    watched = f"{type(callback).__name__} watches {getattr(callback, 'monitor', None)!r}"
    assert str(found.value).startswith(f"{section}.trainer.callbacks: {watched}, which {section} never logs. It logs ")
    assert re.search(rf"\.{re.escape(near)}$", str(found.value))


class Own(Callback):
    """Logs what it likes."""


@pytest.mark.parametrize(
    "callbacks",
    [
        [EarlyStopping("valid/loss")],
        [ModelCheckpoint(monitor="step"), ModelCheckpoint()],
        [EarlyStopping("lr-AdamW"), LearningRateMonitor()],
        [EarlyStopping("mine"), Own()],
    ],
)
def test_what_is_logged_can_be_watched_and_a_callback_of_ones_own_may_log_more(callbacks: list[Any]) -> None:
    adapter(callbacks=callbacks, logger=True)
    with pytest.raises(SettingError, match="watches 'mine'"):
        adapter(callbacks=[EarlyStopping("mine")])
    adapter(callbacks=[EarlyStopping("mine")], hooks=(Own(),))


def test_building_a_trainer_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither files nor variables, also for two processes, whose own trainers are built when they start."""
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    adapter(devices=2, callbacks=[ModelCheckpoint(dirpath="best", monitor="loss")])
    nets(default_root_dir="root")
    assert dict(os.environ) == before
    assert not list(tmp_path.iterdir())
