"""What Rec-Tuning minimises, on a tiny model."""

import pytest
import torch

from trackrec.validator.data import RecTuneData
from trackrec.validator.judge import label_logps
from trackrec.validator.module import RecTuningModule

TARGETS = {"h0": [("s0", "i0", 1), ("s1", "i1", 0)], "h1": [("s2", "i2", 1)]}


@pytest.fixture
def made(tiny_lm, tiny_book):
    lm = tiny_lm(adapters=["v"])
    book = tiny_book
    histories = sorted(book._histories)[:2]
    items = sorted(book._items)
    targets = {
        key: [(sample, items[place], label) for place, (sample, _, label) in enumerate(rows)]
        for key, rows in zip(histories, TARGETS.values(), strict=True)
    }
    data = RecTuneData(lm, book, dict.fromkeys(targets, "Likes Drama."), targets, samples_per_history=2)
    data.setup("fit")
    return lm, data.collate(data.examples)


def loss_of(lm, batch, answers, monkeypatch):
    module = RecTuningModule(lm, "v", answers=answers)
    monkeypatch.setattr(module, "log_step", lambda values, size: None)
    return module.training_step(batch, 0)


def logits_at_answers(lm, batch):
    hidden = lm.hidden(batch.layout)
    rows = [hidden[spot.row, spot.start + spot.length - 1] for spot in batch.spots]
    return lm.logits(torch.stack(rows)).double()


def test_the_paper_s_loss_is_over_the_whole_vocabulary(made, monkeypatch):
    lm, batch = made
    labels = lm.chat.label_tokens()
    p = logits_at_answers(lm, batch).log_softmax(-1)
    answer = [labels.yes[0] if label else labels.no[0] for label in batch.labels]
    due = -p[range(len(answer)), answer].mean()
    assert loss_of(lm, batch, "vocabulary", monkeypatch).item() == pytest.approx(due.item(), rel=1e-4)


def test_the_label_loss_is_that_of_the_score(made, monkeypatch):
    """All forms of the right answer among all forms of both: what P(Yes) is read from."""
    lm, batch = made
    labels = lm.chat.label_tokens()
    p = logits_at_answers(lm, batch).softmax(-1)
    yes, no = p[:, labels.yes].sum(-1), p[:, labels.no].sum(-1)
    right = torch.where(torch.tensor(batch.labels) > 0, yes, no) / (yes + no)
    got = loss_of(lm, batch, "labels", monkeypatch)
    assert got.item() == pytest.approx(-right.log().mean().item(), rel=1e-4)
    got.backward()
    assert any(parameter.grad.abs().sum() > 0 for parameter in lm.train_only("v"))


def test_label_log_probabilities_sum_to_one(made):
    lm, _ = made
    labels = lm.chat.label_tokens()
    logps = torch.randn(4, len(labels.yes) + len(labels.no)).log_softmax(-1) - 3
    torch.testing.assert_close(label_logps(logps, labels).exp().sum(-1), torch.ones(4))
