"""Every number that Rec-Tuning and distillation log, from log-probabilities whose results are worked out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trackrec.distill.module import DistillModule
from trackrec.validator.module import RecTuningModule


@pytest.mark.parametrize("answers", ["vocabulary", "labels"])
def test_rec_tuning_logs_loss_accuracy_and_rows(tiny_lm: Any, monkeypatch: pytest.MonkeyPatch, answers: Any) -> None:
    """Three questions: Yes said to Yes, No said to No, and Yes said to No: two of three are right."""
    module = RecTuningModule(tiny_lm(adapters=["v"]), "v", answers=answers)
    yes, no = module._labels
    p_yes = torch.tensor([0.7, 0.2, 0.6], dtype=torch.float64)
    logps = torch.full((3, len(yes) + len(no)), -50.0, dtype=torch.float64)
    logps[:, 0], logps[:, len(yes)] = p_yes.log(), (1 - p_yes).log()  # the first forms hold everything
    monkeypatch.setattr("trackrec.validator.module.next_token_logprobs", lambda *_: logps)
    batch: Any = SimpleNamespace(layout=None, spots=[], labels=[1, 0, 0])
    sums = module.sums(batch)
    assert sums.units == 3
    assert sums.loss.item() == pytest.approx(-math.log(0.7) - math.log(0.8) - math.log(0.4), rel=1e-9)
    assert sums.means == {"accuracy": (2.0, 3)}
    assert sums.totals == {"rows": 3.0}


def test_distillation_logs_the_mean_of_mean_token_losses_and_tokens(
    tiny_lm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts of 4 and 8 tokens, -2 and -1 nats per token: each text weighs the same."""
    module = DistillModule(tiny_lm(adapters=["g"]), "g")
    found = torch.tensor([-8.0, -8.0]), torch.tensor([4.0, 8.0])
    monkeypatch.setattr("trackrec.distill.module.branch_logprobs", lambda *_: found)
    batch: Any = SimpleNamespace(layout=None, wanted=[], tokens=[], ids=["h0", "h1"])
    sums = module.sums(batch)
    assert (sums.loss.item(), sums.units) == (3.0, 2)
    assert (sums.means, sums.totals) == ({}, {"tokens": 12.0})
