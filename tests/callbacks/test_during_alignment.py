"""Saturation and LikelihoodDisplacement act during the alignment, as Lightning callbacks."""

from __future__ import annotations

import logging

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader
from trackrec.callbacks import LikelihoodDisplacement, Limits, Saturation

from trackrec.runs.hooks import StoppedByMonitorError


class Logging(LightningModule):
    """Trains one weight, and logs at optimizer step n the n-th of some given values."""

    def __init__(self, **values: list[float]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.values = values

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        for name, values in self.values.items():
            self.log(name, values[self.global_step])
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(module: Logging, callback: Callback, accumulate: int = 1) -> Trainer:
    """One epoch of ten optimizer steps."""
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        accumulate_grad_batches=accumulate,
        callbacks=[callback],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, DataLoader(torch.zeros(10 * accumulate, 1), batch_size=1))
    return trainer


@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_stops_at_the_first_step_past_the_limit(accumulate: int) -> None:
    """Two steps are a fifth of ten: (0.9 + 1) / 2 = 0.95 isn't above the limit, (1 + 1) / 2 is."""
    module = Logging(saturated=[0.0, 0.5, 0.9, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    with pytest.raises(StoppedByMonitorError) as caught:
        train(module, Saturation(least=2), accumulate)
    assert str(caught.value) == (
        "Saturation stopped the alignment at step 4: the share of saturated sets is 100.0 %, above the limit of 95.0 % "
        "(n = 2). Lower align.model.lr, or align on more histories (loop.users) for fewer steps. To continue anyway, "
        "raise share.stop of Saturation under monitors (see --print_config)."
    )
    assert module.global_step == 5


def test_it_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "trackrec.callbacks.alignment"):
        train(Logging(saturated=[0.6] * 10), Saturation(least=3))
    assert caplog.messages == [
        "Saturation at step 2 of the alignment: the share of saturated sets is 60.0 %, above the limit of 50.0 % "
        "(n = 3). Lower align.model.lr, or align on more histories (loop.users) for fewer steps."
    ]


def test_the_log_ratio_is_per_token() -> None:
    """(−4 − 8) / (4 + 6) = −1.2 per token, not the mean −1.17 of −4/4 and −8/6."""
    module = Logging(chosen_log_ratio=[0.0, -4.0, -8.0, *[0.0] * 7], chosen_tokens=[5.0, 4.0, 6.0, *[5.0] * 7])
    with pytest.raises(StoppedByMonitorError, match=r"at step 2: .* is -1\.2, below the limit of -1\.18 \(n = 2\)"):
        train(module, LikelihoodDisplacement(Limits(None, -1.18), least=2))


def test_too_few_steps_and_other_trainings_are_left_alone() -> None:
    assert train(Logging(saturated=[1.0] * 10), Saturation(least=11)).global_step == 10
    assert train(Logging(accuracy=[0.0] * 10), Saturation(least=1)).global_step == 10


def test_a_second_alignment_starts_anew() -> None:
    """One monitor watches every round: the steps of an earlier one don't count."""
    monitor = Saturation(least=4)
    assert train(Logging(saturated=[*[0.0] * 7, 1.0, 1.0, 1.0]), monitor).global_step == 10
    assert train(Logging(saturated=[1.0, *[0.0] * 9]), monitor).global_step == 10
