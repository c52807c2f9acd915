"""The S-DPO loss against float64 NumPy, and the properties that the releases' versions lack."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from trackrec.align.softmax_dpo import reward_margins, softmax_dpo

BETA = 0.1


def sets(n_sets: int = 4, k: int = 3, seed: int = 0, scale: float = 20.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return -scale * torch.rand(*shape, generator=generator)

    return {
        "chosen": draw(n_sets),
        "rejected": draw(n_sets, k),
        "ref_chosen": draw(n_sets),
        "ref_rejected": draw(n_sets, k),
        "mask": torch.ones(n_sets, k, dtype=torch.bool),
    }


def formula(values: dict[str, torch.Tensor], beta: float) -> np.ndarray:
    """-log sigmoid(-log sum_j exp d_j) of the paper's eq. 6, set by set, in float64."""
    v = {name: tensor.double().numpy() if name != "mask" else tensor.numpy() for name, tensor in values.items()}
    losses = []
    for b in range(len(v["chosen"])):
        keep = v["mask"][b]
        ratio_chosen = v["chosen"][b] - v["ref_chosen"][b]
        d = beta * ((v["rejected"][b] - v["ref_rejected"][b])[keep] - ratio_chosen)
        losses.append(-np.log(1 / (1 + np.exp(np.log(np.exp(d).sum())))))
    return np.array(losses)


def test_one_set_by_hand():
    """c: -10 against -12 under the reference, ratio 2; r: -20 | -19, ratio -1, and -15 | -18, ratio 3; beta 0.5.

    d = 0.5 * (-1 - 2, 3 - 2) = (-1.5, 0.5); exp: 0.2231 + 1.6487 = 1.8719; L = ln(1 + 1.8719) = 1.0550.
    """
    loss = softmax_dpo(
        torch.tensor([-10.0]),
        torch.tensor([[-20.0, -15.0]]),
        torch.tensor([-12.0]),
        torch.tensor([[-19.0, -18.0]]),
        torch.ones(1, 2, dtype=torch.bool),
        0.5,
    )
    assert loss.tolist() == pytest.approx([math.log(1 + math.exp(-1.5) + math.exp(0.5))], abs=1e-6)
    assert loss.item() == pytest.approx(1.0550, abs=1e-4)


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0])
def test_loss_equals_the_formula_in_float64(beta):
    values = sets(n_sets=6, k=5)
    values["mask"][1, 2:] = False
    values["mask"][4, 0] = False
    found = softmax_dpo(**values, beta=beta)
    assert found.shape == (6,)
    assert found.tolist() == pytest.approx(formula(values, beta).tolist(), rel=1e-5, abs=1e-6)


def test_one_negative_is_dpo():
    """K=1: -log sigmoid(beta * (chosen ratio - rejected ratio))."""
    v = sets(k=1)
    ratio = (v["chosen"] - v["ref_chosen"]) - (v["rejected"] - v["ref_rejected"])[:, 0]
    torch.testing.assert_close(softmax_dpo(**v, beta=BETA), -F.logsigmoid(BETA * ratio))


def test_the_order_of_the_negatives_is_nothing():
    v, order = sets(k=4), [2, 0, 3, 1]
    permuted = v | {name: v[name][:, order] for name in ("rejected", "ref_rejected", "mask")}
    torch.testing.assert_close(softmax_dpo(**v, beta=BETA), softmax_dpo(**permuted, beta=BETA))


def test_fault_01_one_sets_loss_does_not_depend_on_the_batch():
    """A batch of 2 is two batches of 1, also where the other set is larger and its loss is huge."""
    v = sets(n_sets=2, k=3)
    v["rejected"][1] = 900.0
    v["mask"][0, 1:] = False
    together = softmax_dpo(**v, beta=BETA)
    alone = [softmax_dpo(**{name: t[b : b + 1] for name, t in v.items()}, beta=BETA) for b in range(2)]
    assert together.tolist() == [loss.item() for loss in alone]
    assert together.mean().item() == pytest.approx(sum(loss.item() for loss in alone) / 2)
    assert together[1] > 80


@pytest.mark.parametrize("size", [1e3, 1e4])
@pytest.mark.parametrize("sign", [-1, 1])
def test_fault_03_no_overflow(size, sign):
    """exp(beta * 1e3 * 2) is inf in float32 and float64 alike; the loss is about linear there, the gradient bounded."""
    v = sets(n_sets=2, k=3, scale=0.0)
    v["chosen"] = torch.full((2,), -sign * size, requires_grad=True)
    v["rejected"] = torch.full((2, 3), sign * size, requires_grad=True)
    loss = softmax_dpo(**v, beta=1.0)
    loss.sum().backward()
    due = 2 * size + math.log(3) if sign > 0 else 0.0
    assert loss.tolist() == pytest.approx([due] * 2, rel=1e-6)
    for tensor in (v["chosen"], v["rejected"]):
        assert torch.isfinite(tensor.grad).all()
        assert (tensor.grad.abs() <= 1.01).all()
    assert v["chosen"].grad.tolist() == pytest.approx([-1.0 if sign > 0 else 0.0] * 2, abs=2e-3)


@pytest.mark.parametrize("junk", [0.0, -1e30, math.inf, -math.inf, math.nan])
def test_a_masked_negative_is_never_read(junk):
    """Neither the loss nor any gradient knows what stands there, and its own gradient is zero."""
    v = sets(n_sets=2, k=3)
    v["mask"][0, 1] = False
    clean = {name: t[:1] if name == "chosen" or name == "ref_chosen" else t[:1, [0, 2]] for name, t in v.items()}
    v["rejected"][0, 1] = v["ref_rejected"][0, 1] = junk
    leaves = {name: v[name].clone().requires_grad_(True) for name in ("chosen", "rejected")}
    loss = softmax_dpo(**(v | leaves), beta=BETA)
    loss.sum().backward()
    assert loss[0].item() == pytest.approx(softmax_dpo(**clean, beta=BETA).item(), abs=1e-6)
    assert leaves["rejected"].grad[0, 1] == 0
    assert (leaves["rejected"].grad[v["mask"]] > 0).all()
    assert (leaves["chosen"].grad < 0).all()


@pytest.mark.parametrize("k", [1, 2, 9])
def test_the_loss_starts_at_ln_of_one_plus_k(k):
    """Policy = reference: d = 0, so L = ln(1 + sum_j 1)."""
    v = sets(k=k)
    same = v | {"ref_chosen": v["chosen"], "ref_rejected": v["rejected"]}
    assert softmax_dpo(**same, beta=BETA).tolist() == pytest.approx([math.log(1 + k)] * 4, abs=1e-6)


def test_gradient_by_hand():
    """dL/dr_j = beta * softmax_j(d) * sigmoid(logsumexp d), dL/dc minus their sum: the harder one is pushed more."""
    v = sets(n_sets=1, k=3)
    leaves = {name: v[name].clone().requires_grad_(True) for name in ("chosen", "rejected")}
    softmax_dpo(**(v | leaves), beta=BETA).sum().backward()
    d = reward_margins(**v, beta=BETA)
    due = BETA * d.softmax(-1) * d.logsumexp(-1, keepdim=True).sigmoid()
    torch.testing.assert_close(leaves["rejected"].grad, due)
    torch.testing.assert_close(leaves["chosen"].grad, -due.sum(-1))


@settings(max_examples=50, deadline=None, database=None)
@given(st.integers(1, 6), st.integers(0, 99), st.floats(0.01, 2.0))
def test_another_negative_never_lowers_the_loss(k, seed, beta):
    v = sets(n_sets=3, k=k + 1, seed=seed)
    fewer = v["mask"].clone()
    fewer[:, k] = False
    assert (softmax_dpo(**v, beta=beta) >= softmax_dpo(**(v | {"mask": fewer}), beta=beta) - 1e-6).all()


def test_margins_are_negative_where_the_policy_prefers_the_chosen_text():
    v = sets(n_sets=1, k=2, scale=0.0)
    v["rejected"] = torch.tensor([[-5.0, 5.0]])
    v["mask"] = torch.tensor([[True, True]])
    assert reward_margins(**v, beta=0.2).tolist() == [[-1.0, 1.0]]
    v["mask"] = torch.tensor([[True, False]])
    assert reward_margins(**v, beta=0.2).tolist() == [[-1.0, -math.inf]]


def test_a_set_without_a_negative_is_an_error():
    v = sets()
    v["mask"][2] = False
    with pytest.raises(ValueError, match="every preference set needs at least one rejected text"):
        softmax_dpo(**v, beta=BETA)


@pytest.mark.parametrize(("name", "shape"), [("mask", (4, 2)), ("ref_rejected", (4, 2)), ("ref_chosen", (4, 1))])
def test_shapes_that_disagree_are_an_error(name, shape):
    v = sets()
    v[name] = torch.ones(shape, dtype=v[name].dtype)
    with pytest.raises(ValueError, match=r"shapes disagree: chosen \(4,\), rejected \(4, 3\)"):
        softmax_dpo(**v, beta=BETA)
