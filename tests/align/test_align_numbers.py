"""Every number that S-DPO logs, from log-probabilities whose results are worked out here by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from trackrec.align.data import PreferenceBatch
from trackrec.align.module import SetLogps, SoftmaxDPOModule
from trackrec.runtime.errors import SettingError

# Two sets; the second has one rejected text only. Rows are sets, columns texts.
CHOSEN, REF_CHOSEN = torch.tensor([-10.0, -20.0]), torch.tensor([-11.0, -18.0])
REJECTED, REF_REJECTED = torch.tensor([[-12.0, -13.0], [-15.0, 99.0]]), torch.tensor([[-11.0, -14.0], [-16.0, 7.0]])
MASK = torch.tensor([[True, True], [True, False]])
CHOSEN_LENGTH, REJECTED_LENGTH = torch.tensor([4.0, 6.0]), torch.tensor([[3.0, 5.0], [7.0, 1.0]])
REWARDS = torch.tensor([[0.9, 0.8, 0.5], [0.7, 0.6, 0.0]])
# log π - log π_ref: chosen +1 and -2; rejected -1, +1 and +1. With β = 1 the margins d are -2, 0 and 3.
BY_HAND = {
    "chosen_reward": (1 - 2) / 2,
    "rejected_reward": (-1 + 1 + 1) / 3,
    "margin": -(-2 + 0 + 3) / 3,
    "accuracy": 1 / 3,  # d < 0 in one of three pairs
    "chosen_log_ratio": (1 - 2) / 2,
    "chosen_tokens": 5.0,
    "rejected_tokens": (3 + 5 + 7) / 3,
    "saturated": 0.0,
    "negatives": 1.5,
}
LOSSES = [math.log(1 + math.exp(-2) + math.exp(0)), math.log(1 + math.exp(3))]


@pytest.fixture
def module(tiny_lm: Any, monkeypatch: pytest.MonkeyPatch) -> SoftmaxDPOModule:
    made = SoftmaxDPOModule(tiny_lm(adapters=["g"]), "g", beta=1.0)
    logps = SetLogps(CHOSEN, REJECTED, MASK, CHOSEN_LENGTH, REJECTED_LENGTH)
    monkeypatch.setattr(made, "set_logps", lambda batch: logps)
    return made


def batch(ref_rejected: torch.Tensor = REF_REJECTED) -> PreferenceBatch:
    empty: Any = None
    return PreferenceBatch(["h0", "h1"], empty, [], [], [2, 1], REF_CHOSEN, ref_rejected, [], REWARDS, torch.ones(2))


def test_every_logged_value(module: SoftmaxDPOModule) -> None:
    losses, values = module.losses(batch())
    assert losses.tolist() == pytest.approx(LOSSES, rel=1e-6)
    assert {name: value.item() for name, value in values.items()} == pytest.approx(BY_HAND, abs=1e-6)


def test_a_set_that_is_won_counts_as_saturated(module: SoftmaxDPOModule) -> None:
    """Both rejected texts of the first set lost 10 nats: their share of the softmax is 3e-5, below 1 %."""
    won = batch(REJECTED + torch.tensor([[10.0, 10.0], [-1.0, 0.0]]))
    assert module.losses(won)[1]["saturated"].item() == 0.5


def test_a_step_weighs_sets_and_pairs_as_their_means_say(module: SoftmaxDPOModule) -> None:
    sums = module.sums(batch())
    assert sums.units == 2
    assert sums.loss.item() == pytest.approx(sum(LOSSES), rel=1e-6)
    means = {name: total / count for name, (total, count) in sums.means.items()}
    assert means == pytest.approx(BY_HAND, abs=1e-6)
    per_pair = {name for name, (_, count) in sums.means.items() if count == 3}
    assert per_pair == {"rejected_reward", "margin", "accuracy", "rejected_tokens"}


def test_the_mean_per_token_compares_lengths_away(tiny_lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = SoftmaxDPOModule(tiny_lm(adapters=["g"]), "g", beta=1.0, length_norm="avg", sft_coef=2.0)
    monkeypatch.setattr(made, "set_logps", lambda _: SetLogps(CHOSEN, REJECTED, MASK, CHOSEN_LENGTH, REJECTED_LENGTH))
    losses, values = made.losses(batch())
    # Per token: chosen +1/4 and -2/6; rejected -1/3, +1/5 and +1/7.
    d = [[-1 / 3 - 1 / 4, 1 / 5 - 1 / 4], [1 / 7 + 2 / 6]]
    sft = [10 / 4, 20 / 6]
    due = [math.log(1 + sum(map(math.exp, row))) + 2 * nll for row, nll in zip(d, sft, strict=True)]
    assert losses.tolist() == pytest.approx(due, rel=1e-5)
    assert values["sft_loss"].item() == pytest.approx(sum(sft) / 2, rel=1e-6)
    assert values["accuracy"].item() == pytest.approx(2 / 3)
    assert values["chosen_log_ratio"].item() == -0.5  # in nats of the whole text, as the monitors read it


# -- the other methods ---------------------------------------------------------------------------------------------


def with_method(tiny_lm: Any, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> SoftmaxDPOModule:
    made = SoftmaxDPOModule(tiny_lm(adapters=["g"]), "g", beta=1.0, **settings)
    monkeypatch.setattr(made, "set_logps", lambda _: SetLogps(CHOSEN, REJECTED, MASK, CHOSEN_LENGTH, REJECTED_LENGTH))
    return made


def test_the_best_of_n_is_learned_by_its_mean_token_loss(tiny_lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """10 nats over 4 tokens, 20 over 6; what is logged beside the loss is that of S-DPO."""
    losses, values = with_method(tiny_lm, monkeypatch, method="sft").losses(batch())
    assert losses.tolist() == pytest.approx([10 / 4, 20 / 6], rel=1e-6)
    assert {name: value.item() for name, value in values.items()} == pytest.approx(BY_HAND, abs=1e-6)


@pytest.mark.parametrize("norm", ["none", "avg"])
def test_the_list_is_the_cross_entropy_of_two_softmaxes(
    tiny_lm: Any, monkeypatch: pytest.MonkeyPatch, norm: Any
) -> None:
    """At temperature .1 the targets are softmax(9, 8, 5) and softmax(7, 6); scores are the log-ratios, (1, -1, 1) and
    (-2, 1), or these per token, (1/4, -1/3, 1/5) and (-2/6, 1/7)."""
    module = with_method(tiny_lm, monkeypatch, method="listwise", reward_temperature=0.1, length_norm=norm, sft_coef=2)
    scores = [[1, -1, 1], [-2, 1]] if norm == "none" else [[1 / 4, -1 / 3, 1 / 5], [-2 / 6, 1 / 7]]
    due = []
    for row, rewards, sft in zip(scores, [[9, 8, 5], [7, 6]], [10 / 4, 20 / 6], strict=True):
        target = [math.exp(reward) / sum(map(math.exp, rewards)) for reward in rewards]
        norm_of = math.log(sum(map(math.exp, row)))
        due.append(-sum(share * (score - norm_of) for share, score in zip(target, row, strict=True)) + 2 * sft)
    assert module.losses(batch())[0].tolist() == pytest.approx(due, rel=1e-5)


def test_a_cold_list_of_two_is_s_dpo(tiny_lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the whole target on the chosen text the cross-entropy is S-DPO's loss."""
    module = with_method(tiny_lm, monkeypatch, method="listwise", reward_temperature=1e-3)
    assert module.losses(batch())[0].tolist() == pytest.approx(LOSSES, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "dpo"}, r"align\.model\.method must be one of sdpo, sft, listwise, got 'dpo'"),
        ({"method": "sft", "sft_coef": 0.1}, r"align\.model\.sft_coef is 0\.1, but with method: sft"),
        ({"reward_temperature": 0.0}, r"align\.model\.reward_temperature must be above 0, got 0"),
    ],
)
def test_settings_that_do_not_fit_are_named(tiny_lm: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        SoftmaxDPOModule(tiny_lm(adapters=["g"]), "g", **settings)


def test_a_sets_weight_multiplies_all_of_its_loss(tiny_lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """1/2 and 3/2: the step's loss is (½ (L0 + 2 sft0) + 3/2 (L1 + 2 sft1)) / 2."""
    module = with_method(tiny_lm, monkeypatch, sft_coef=2.0)
    weighted = batch()._replace(weights=torch.tensor([0.5, 1.5]))
    sums = module.sums(weighted)
    due = 0.5 * (LOSSES[0] + 2 * 10 / 4) + 1.5 * (LOSSES[1] + 2 * 20 / 6)
    assert (sums.loss.item(), sums.units) == (pytest.approx(due, rel=1e-6), 2)
    assert sums.means["margin"] == module.sums(batch()).means["margin"]
    assert module.compare(weighted)[1].tolist() == pytest.approx(LOSSES, rel=1e-6)  # for the check and the validation


@pytest.mark.parametrize("method", ["sdpo", "listwise"])
def test_moving_away_from_the_reference_costs_in_every_text(
    tiny_lm: Any, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    """Log-ratios (1; -1, 1) over (4; 3, 5) tokens and (-2; 1) over (6; 7); squares over twice the tokens."""
    kl = [(1 / 8 + 1 / 6 + 1 / 10) / 3, (4 / 12 + 1 / 14) / 2]
    without = with_method(tiny_lm, monkeypatch, method=method).losses(batch())[0]
    losses, values = with_method(tiny_lm, monkeypatch, method=method, kl_coef=3.0).losses(batch())
    assert (losses - without).tolist() == pytest.approx([3 * one for one in kl], rel=1e-5)
    assert values["kl"].item() == pytest.approx(sum(kl) / 2, rel=1e-6)
    with pytest.raises(SettingError, match=r"align\.model\.kl_coef must be at least 0, got -1"):
        with_method(tiny_lm, monkeypatch, kl_coef=-1)
