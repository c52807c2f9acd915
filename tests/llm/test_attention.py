"""Grouped attention against torch's own, forward and backward."""

from types import SimpleNamespace

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward as gemma2
from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward as gpt_oss

from trackrec.llm.kernels import attention
from trackrec.llm.kernels.attention import GroupedAttention, SharedPrefix, sdpa_or_grouped

B, H, G, D = 2, 6, 2, 8


def layer(is_causal=True):
    return SimpleNamespace(is_causal=is_causal, num_key_value_groups=H // G, training=True, sinks=SINKS)


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


def test_dropout_is_left_to_sdpa(monkeypatch):
    inputs, visible = random_inputs(6, 6)
    monkeypatch.setattr(attention, "GroupedAttention", None)
    both = []
    for way in (sdpa_attention_forward, sdpa_or_grouped):
        torch.manual_seed(0)
        both.append(way(layer(), *inputs, visible, scaling=0.3, dropout=0.1)[0])
    assert torch.equal(*both)


SINKS = torch.linspace(-1, 2, H)
# Each family's own eager attention, and what it hands to the interface besides.
BEYOND_SDPA = [
    pytest.param(gemma2, {"softcap": 0.7}, id="soft cap"),
    pytest.param(gpt_oss, {"s_aux": SINKS}, id="sinks"),
]


@pytest.mark.parametrize(("own", "options"), BEYOND_SDPA)
@pytest.mark.parametrize(("queries", "keys"), [(6, 6), (1, 9)])
@pytest.mark.parametrize("masked", [True, False])
def test_what_sdpa_leaves_out_is_computed(own, options, queries, keys, masked):
    inputs, visible = random_inputs(queries, keys)
    causal = torch.ones(B, 1, queries, keys, dtype=torch.bool).tril(keys - queries)
    due = own(layer(), *inputs, additive(visible if masked else causal, torch.float32), scaling=0.3, **options)[0]
    got = sdpa_or_grouped(layer(), *inputs, visible if masked else None, scaling=0.3, **options)[0]
    torch.testing.assert_close(got, due)
    assert (sdpa_attention_forward(layer(), *inputs, visible, scaling=0.3, **options)[0] - due).abs().max() > 0.01
    for ours, theirs in zip(
        torch.autograd.grad(got.sin().sum(), inputs), torch.autograd.grad(due.sin().sum(), inputs), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    with torch.no_grad():  # a decoding step
        torch.testing.assert_close(
            sdpa_or_grouped(layer(), *inputs, visible if masked else None, scaling=0.3, **options)[0], due
        )


@pytest.mark.parametrize(("own", "options"), [*BEYOND_SDPA, pytest.param(gemma2, {}, id="plain")])
def test_a_shared_prompt_is_read_as_if_each_draw_had_it(own, options):
    """Two prompts of 5 tokens, the second padded by 2; two draws of each, with 3 new tokens."""
    made = torch.Generator().manual_seed(4)
    keys, values = torch.randn(2, G, 5, D, generator=made), torch.randn(2, G, 5, D + 3, generator=made)
    key, value = torch.randn(4, G, 3, D, generator=made), torch.randn(4, G, 3, D + 3, generator=made)
    query = torch.randn(4, 1, H, D, generator=made).transpose(1, 2)
    hidden = torch.tensor([[0.0] * 5, [-torch.inf] * 2 + [0.0] * 3])
    options = {"scaling": 0.3, **options}
    with torch.no_grad():
        prefix = SharedPrefix([(keys, values)], hidden)
        module = SimpleNamespace(**vars(layer()), layer_idx=0)
        got = sdpa_or_grouped(module, query, key, value, torch.zeros(4, 1, 1, 1), shared_prefix=prefix, **options)[0]
        whole = [torch.cat([prompt.repeat_interleave(2, 0), new], 2) for prompt, new in ((keys, key), (values, value))]
        mask = torch.cat([hidden.repeat_interleave(2, 0), torch.zeros(4, 3)], 1)[:, None, None]
        torch.testing.assert_close(got, own(layer(), query, *whole, mask, **options)[0])


def test_values_may_be_wider_than_keys(monkeypatch):
    """Latent attention (DeepSeek)."""
    monkeypatch.setattr(attention, "_BLOCK", 4)
    (query, key, _), visible = random_inputs(10, 10)
    value = torch.randn(B, G, 10, D + 5, generator=torch.Generator().manual_seed(1), requires_grad=True)
    mask = additive(visible, torch.float32)
    due = gemma2(layer(), query, key, value, mask, scaling=0.3)[0]
    got = sdpa_or_grouped(layer(), query, key, value, mask, scaling=0.3)[0]
    torch.testing.assert_close(got, due)
    for ours, theirs in zip(
        torch.autograd.grad(got.sin().sum(), (query, key, value)),
        torch.autograd.grad(due.sin().sum(), (query, key, value)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("queries", [1, 6])
def test_the_result_can_be_viewed(queries):
    """afmoe calls view on it."""
    inputs, visible = random_inputs(queries, 6)
    with torch.no_grad():
        assert sdpa_or_grouped(layer(), *inputs, visible, scaling=0.3)[0].view(B, queries, -1).shape[2] == H * D


def test_a_layer_that_looks_ahead_is_left_to_sdpa():
    """Blocks skip the keys behind a query, which is right for causal layers only."""
    inputs, _ = random_inputs(6, 6)
    everything = torch.ones(B, 1, 6, 6, dtype=torch.bool)
    due = sdpa_attention_forward(layer(False), *inputs, everything, scaling=0.3)[0]
    torch.testing.assert_close(sdpa_or_grouped(layer(False), *inputs, everything, scaling=0.3)[0], due)
