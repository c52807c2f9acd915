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
    batch: Any = SimpleNamespace(layout=None, spots=[], labels=[1, 0, 0], answered=[0, 1, 2], pairs=[], contrast=0.0)
    sums = module.sums(batch)
    assert sums.units == 3
    assert sums.loss.item() == pytest.approx(-math.log(0.7) - math.log(0.8) - math.log(0.4), rel=1e-9)
    assert sums.means == {"accuracy": (2.0, 3)}
    assert sums.totals == {"rows": 3.0}


def test_the_contrast_by_hand(tiny_lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A like and a dislike, each with the own text (0, 1) and with another user's (2, 3), of which only 3 is answered.

    P(Yes) .7, .2, .6, .5: the true labels have .7, .8 with the own and .6, .5 with the wrong text, so the margins are
    log(7/6) and log(8/5), and softplus(-log m) = log(1 + 1/m): log(13/7) and log(13/8), each times 2. The answers have
    .7, .8, .5.
    """
    module = RecTuningModule(tiny_lm(adapters=["v"]), "v")
    yes, no = module._labels
    p_yes = torch.tensor([0.7, 0.2, 0.6, 0.5], dtype=torch.float64)
    logps = torch.full((4, len(yes) + len(no)), -50.0, dtype=torch.float64)
    logps[:, 0], logps[:, len(yes)] = p_yes.log(), (1 - p_yes).log()
    monkeypatch.setattr("trackrec.validator.module.next_token_logprobs", lambda *_: logps)
    batch: Any = SimpleNamespace(
        layout=None, spots=[], labels=[1, 0, 1, 0], answered=[0, 1, 3], pairs=[(0, 2), (1, 3)], contrast=2.0
    )
    sums = module.sums(batch)
    answers = -math.log(0.7) - math.log(0.8) - math.log(0.5)
    assert sums.units == 3
    assert sums.loss.item() == pytest.approx(answers + 2 * (math.log(13 / 7) + math.log(13 / 8)), rel=1e-9)
    assert sums.means["text_margin"] == (pytest.approx(math.log(7 / 6) + math.log(8 / 5)), 2)
    alone = module.sums(SimpleNamespace(**{**vars(batch), "pairs": []}))  # type: ignore[arg-type]
    assert alone.loss.item() == pytest.approx(answers, rel=1e-9)
    assert alone.means["text_margin"] == (0.0, 0)  # the name stands in every part of a batch


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
