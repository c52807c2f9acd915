"""Grouped attention against torch's own, forward and backward."""

from types import SimpleNamespace

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from trackrec.llm.kernels import attention
from trackrec.llm.kernels.attention import GroupedAttention, sdpa_or_grouped

B, H, G, D = 2, 6, 2, 8


def layer(is_causal=True):
    return SimpleNamespace(is_causal=is_causal, num_key_value_groups=H // G, training=True)


def random_inputs(queries, keys, dtype=torch.float32, seed=0):
    made = torch.Generator().manual_seed(seed)
    # As a model hands them over: heads are a transposed view.
    query = torch.randn(B, queries, H, D, generator=made, dtype=dtype).transpose(1, 2)
    key, value = (torch.randn(B, keys, G, D, generator=made, dtype=dtype).transpose(1, 2) for _ in range(2))
    visible = torch.rand(B, queries, keys, generator=made) > 0.4
    visible &= torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    visible |= torch.eye(queries, keys, dtype=torch.bool).roll(keys - queries, 1)
    return [tensor.requires_grad_() for tensor in (query, key, value)], visible.unsqueeze(1)


def additive(visible, dtype):
    return torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, torch.finfo(dtype).min)


@pytest.mark.parametrize(("queries", "keys"), [(3, 3), (40, 40), (130, 130), (20, 45)])
@pytest.mark.parametrize("boolean", [True, False])
def test_values_and_gradients_are_those_of_sdpa(monkeypatch, queries, keys, boolean):
    monkeypatch.setattr(attention, "_BLOCK", 16)  # several blocks, the last one ragged
    inputs, visible = random_inputs(queries, keys)
    mask = visible if boolean else additive(visible, torch.float32)
    due = sdpa_attention_forward(layer(), *inputs, additive(visible, torch.float32), scaling=0.3)[0]
    got = sdpa_or_grouped(layer(), *inputs, mask, scaling=0.3)[0]
    above = torch.randn(due.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(got, due)
    for ours, theirs in zip(
        torch.autograd.grad(got, inputs, above), torch.autograd.grad(due, inputs, above), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_gradients_match_finite_differences(monkeypatch):
    monkeypatch.setattr(attention, "_BLOCK", 2)
    inputs, visible = random_inputs(5, 7, torch.float64)
    mask = additive(visible, torch.float64)[:, 0]
    assert torch.autograd.gradcheck(lambda q, k, v: GroupedAttention.apply(q, k, v, mask, 0.35), inputs)


@pytest.mark.parametrize("masked", [True, False])
def test_one_query_against_a_cache(masked):
    inputs, visible = random_inputs(1, 9)
    mask = visible if masked else None
    with torch.no_grad():
        due = sdpa_attention_forward(layer(), *inputs, mask, scaling=0.3)[0]
        torch.testing.assert_close(sdpa_or_grouped(layer(), *inputs, mask, scaling=0.3)[0], due)


def test_a_query_that_sees_nothing_stays_finite():
    """Left padding: a pad sees no key; its value is thrown away, but it must not be NaN."""
    inputs, visible = random_inputs(6, 6)
    visible[:, :, :2] = False
    out = sdpa_or_grouped(layer(), *inputs, visible, scaling=0.3)[0]
    out.sum().backward()
    assert all(tensor.grad.isfinite().all() for tensor in inputs)


@pytest.mark.parametrize(
    "options", [{"softcap": 30.0}, {"dropout": 0.1}, {"s_aux": torch.zeros(H)}], ids=["softcap", "dropout", "sinks"]
)
def test_what_it_does_not_know_is_left_to_sdpa(monkeypatch, options):
    inputs, visible = random_inputs(6, 6)
    monkeypatch.setattr(attention, "GroupedAttention", None)
    both = []
    for way in (sdpa_attention_forward, sdpa_or_grouped):
        torch.manual_seed(0)  # of the dropout
        both.append(way(layer(), *inputs, visible, scaling=0.3, **options)[0])
    assert torch.equal(*both)


def test_a_layer_that_looks_ahead_is_left_to_sdpa():
    """Blocks skip the keys behind a query, which is right for causal layers only."""
    inputs, _ = random_inputs(6, 6)
    everything = torch.ones(B, 1, 6, 6, dtype=torch.bool)
    due = sdpa_attention_forward(layer(False), *inputs, everything, scaling=0.3)[0]
    torch.testing.assert_close(sdpa_or_grouped(layer(False), *inputs, everything, scaling=0.3)[0], due)
