"""Small checkpoints, and trainings that go on from them: to the bit, with one curve, after a nan too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_stages import QUIET
from lightning.pytorch import Callback

from trackrec.distill.data import DistillData
from trackrec.distill.module import DistillModule
from trackrec.llm.loading import LoRASettings
from trackrec.llm.training.fit import fit_adapter

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quiet_lightning")]


class PowerCut(Callback):
    """Ends the run in the middle of an epoch, after some optimizer steps."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == self.after:
            raise ConnectionAbortedError("the power is gone")


def distill(build: Any, book: Any, texts: Path, out: Path, cut: int | None = None, rank: int = 4) -> Any:
    """One run of two epochs of five batches with LoRA dropout; with ``cut`` it dies after so many steps."""
    lm = build(adapters=["g", "v"], lora=LoRASettings(r=rank, dropout=0.2))
    module = DistillModule(lm, "g", lr=1e-2)
    data = DistillData(lm, book, texts, seed=3, batch_size=2)
    args: dict[str, Any] = QUIET | {"max_epochs": 2}
    if cut is None:
        fit_adapter(module, data, args, out, checkpoint_every=1)
        return lm
    with pytest.raises(ConnectionAbortedError):
        fit_adapter(module, data, args | {"callbacks": [PowerCut(cut)]}, out, checkpoint_every=1)
    return lm


def test_a_checkpoint_holds_the_adapter_and_nothing_of_the_base(tiny_lm, tiny_book, texts_dir, tmp_path):
    lm = distill(tiny_lm, tiny_book, texts_dir, tmp_path / "out", cut=3, rank=32)
    lm.save_adapter(tmp_path / "adapter", "g")
    path = tmp_path / "out" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    names = set(checkpoint["state_dict"])
    assert names == {f"backbone.{name}" for name, p in lm.base.named_parameters() if ".g." in name}
    assert len(names) == 28
    assert path.stat().st_size < 4 * (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size
    assert checkpoint["global_step"] == 3
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("cut", [3, 5, 7], ids=["mid first epoch", "between epochs", "mid second epoch"])
def test_a_resumed_run_gives_the_undisturbed_adapter_to_the_bit(tiny_lm, tiny_book, texts_dir, tmp_path, cut):
    """Five batches an epoch, LoRA dropout on: the order of batches and the random numbers both go on."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    distill(tiny_lm, tiny_book, texts_dir, whole)
    distill(tiny_lm, tiny_book, texts_dir, broken, cut=cut)
    assert not (broken / "adapter").exists()
    distill(tiny_lm, tiny_book, texts_dir, broken)
    name = Path("adapter") / "adapter_model.safetensors"
    assert (broken / name).read_bytes() == (whole / name).read_bytes()


def test_a_resumed_run_leaves_one_curve(tiny_lm, tiny_book, texts_dir, tmp_path):
    distill(tiny_lm, tiny_book, texts_dir, tmp_path / "whole")
    distill(tiny_lm, tiny_book, texts_dir, tmp_path / "out", cut=4)
    distill(tiny_lm, tiny_book, texts_dir, tmp_path / "out")
    curve = (tmp_path / "out" / "logs" / "metrics.csv").read_text()
    assert len(curve.splitlines()) == 11
    assert curve == (tmp_path / "whole" / "logs" / "metrics.csv").read_text()


def test_a_training_that_was_whole_but_for_its_adapter_keeps_its_last_values(tiny_lm, tiny_book, texts_dir, tmp_path):
    """Cut between the last checkpoint and the adapter: nothing trains any more, and the manifest still has its loss."""
    values = []
    for _ in range(2):
        lm = tiny_lm(adapters=["g"], lora=LoRASettings(r=2))
        module = DistillModule(lm, "g", lr=1e-2)
        data = DistillData(lm, tiny_book, texts_dir, batch_size=2)
        fit_adapter(module, data, QUIET | {"max_epochs": 1}, tmp_path / "out", checkpoint_every=1)
        values.append(module.last_values)
    assert values[0]["loss"] > 0
    assert values[1] == values[0]


def test_what_ran_before_a_training_does_not_matter(tiny_lm, tiny_book, texts_dir, tmp_path):
    """A stage that starts anew after a crash stands in a process that has drawn other random numbers."""
    for seed in (1, 2):
        torch.manual_seed(seed)
        distill(tiny_lm, tiny_book, texts_dir, tmp_path / str(seed))
    assert torch.initial_seed() == 2  # and the training leaves the process's state as it was
    adapters = [(tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in "12"]
    assert adapters[0] == adapters[1]


class Poison(Callback):
    """Weights or gradients that are no numbers at one step."""

    def __init__(self, step: int, gradients: bool) -> None:
        self.step, self.gradients = step, gradients

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if self.gradients and trainer.global_step == self.step:
            pl_module._trained[0].grad.fill_(float("nan"))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if not self.gradients and trainer.global_step == self.step:
            pl_module._trained[0].data.fill_(float("nan"))


@pytest.mark.parametrize("gradients", [False, True], ids=["a loss", "a gradient"])
def test_after_a_nan_the_last_good_checkpoint_goes_on(tiny_lm, tiny_book, texts_dir, tmp_path, gradients):
    """A gradient that is no number shows in no loss before the step that it spoils."""

    def train(out: Path, *callbacks: Callback) -> None:
        lm = tiny_lm(adapters=["g"], lora=LoRASettings(r=2))
        data = DistillData(lm, tiny_book, texts_dir, batch_size=2)
        args = QUIET | {"max_epochs": 1, "callbacks": list(callbacks)}
        fit_adapter(DistillModule(lm, "g", lr=1e-2), data, args, out, checkpoint_every=1)

    train(tmp_path / "whole")
    with pytest.raises(FloatingPointError, match="at step 3"):
        train(tmp_path / "out", Poison(2 if gradients else 3, gradients))
    checkpoint = torch.load(tmp_path / "out" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == (2 if gradients else 3)
    assert all(torch.isfinite(weight).all() for weight in checkpoint["state_dict"].values())
    assert not (tmp_path / "out" / "adapter").exists()
    train(tmp_path / "out")
    name = Path("adapter") / "adapter_model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
