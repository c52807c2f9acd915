"""A linear layer and its adapter as one product, against PEFT's forward and finite differences."""

import pytest
import torch
from peft.tuners.lora import Linear
from torch import nn

from trackrec.llm.kernels.fused_lora import LoRAProduct, fuse
from trackrec.llm.loading import LoRASettings
from trackrec.llm.packing import Branch

SMALL = LoRASettings(r=2)


def linear(dtype=torch.float32, bias=True, adapters=("g",), **config):
    """PEFT's layer over 6 inputs and 5 outputs, its B no longer zero."""
    from peft import LoraConfig

    torch.manual_seed(0)
    given = LoraConfig(r=2, lora_alpha=3, **config)
    layer = Linear(nn.Linear(6, 5, bias=bias), "g", given, r=2, lora_alpha=3)
    for name in adapters[1:]:
        layer.update_layer(name, 2, lora_alpha=5, config=given)
    for name in adapters:
        nn.init.normal_(layer.lora_B[name].weight)
    layer.base_layer.to(dtype).requires_grad_(False)
    layer.set_adapter(list(adapters))
    return layer


def both_ways(layer, x, mixed=False):
    """Output and the gradients of x and of every trained weight, by PEFT and as one product."""
    found = []
    trained = [weight for weight in layer.parameters() if weight.requires_grad]
    for forward in (lambda: Linear.forward(layer, x), lambda: layer(x)):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            out = forward()
        above = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
        found.append([out, *torch.autograd.grad(out, [x, *trained], above)])
    return found


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 6)])
def test_values_and_gradients_are_pefts(counted, bias, shape):
    layer = linear(bias=bias)
    fuse(layer)
    for due, got in zip(*both_ways(layer, torch.randn(shape, requires_grad=True)), strict=True):
        assert got.shape == due.shape
        torch.testing.assert_close(got, due)
    assert counted == [1]


def test_a_frozen_input_costs_no_gradient(counted):
    layer = linear()
    fuse(layer)
    out = layer(torch.randn(3, 6))
    found = torch.autograd.grad(out.sum(), [layer.lora_A["g"].weight, layer.lora_B["g"].weight])
    assert all(gradient.abs().max() > 0 for gradient in found)
    assert counted == [1]


def test_gradients_match_finite_differences():
    torch.manual_seed(0)
    sizes = ((3, 6), (5, 6), (5,), (2, 6), (5, 2))
    x, weight, bias, a, b = (torch.randn(size, dtype=torch.float64) for size in sizes)
    trained = [tensor.requires_grad_() for tensor in (x, a, b)]
    assert torch.autograd.gradcheck(lambda x, a, b: LoRAProduct.apply(x, weight, bias, a, b, 0.7), trained)


def test_in_bfloat16_it_is_as_near_to_float64_as_peft(counted):
    layer = linear(torch.bfloat16)
    fuse(layer)
    x = torch.randn(200, 6).bfloat16().requires_grad_()
    peft, ours = both_ways(layer, x, mixed=True)
    assert counted == [1]
    assert [value.dtype for value in ours] == [value.dtype for value in peft]
    exact = linear().double()
    exact.base_layer.weight.data = layer.base_layer.weight.double()
    exact.base_layer.bias.data = layer.base_layer.bias.double()
    due, _ = both_ways(exact, x.detach().double().requires_grad_())
    for true, theirs, own in zip(due, peft, ours, strict=True):
        error = [(value.double() - true).abs().mean() for value in (theirs, own)]
        assert error[1] <= 1.3 * error[0]


@pytest.mark.parametrize(
    ("config", "adapters", "dtype", "mixed"),
    [
        ({"lora_dropout": 0.5}, ("g",), torch.float32, False),
        ({"use_dora": True}, ("g",), torch.float32, False),
        ({"lora_bias": True}, ("g",), torch.float32, False),
        ({}, ("g", "v"), torch.float32, False),
        ({}, ("g",), torch.float32, True),  # the product is bfloat16, the frozen weight isn't
    ],
)
def test_what_is_no_plain_adapter_is_left_to_peft(counted, config, adapters, dtype, mixed):
    layer = linear(dtype, adapters=adapters, **config)
    layer.eval()
    fuse(layer)
    if config.get("lora_dropout"):
        layer.train()
        torch.manual_seed(1)
        due = Linear.forward(layer, x := torch.ones(4, 6))
        torch.manual_seed(1)
        assert torch.equal(layer(x), due)
    else:
        for due, got in zip(*both_ways(layer, torch.randn(4, 6, requires_grad=True), mixed), strict=True):
            assert torch.equal(due, got)
    assert counted == [0]


def test_without_an_adapter_in_force_it_is_the_plain_layer(counted):
    layer = linear()
    fuse(layer)
    layer.enable_adapters(False)
    x = torch.randn(4, 6)
    assert torch.equal(layer(x), layer.base_layer(x))
    assert counted == [0]


@pytest.fixture
def counted(monkeypatch):
    """How often `LoRAProduct` computed."""
    calls, forward = [0], LoRAProduct.forward

    def count(*args):
        calls[0] += 1
        return forward(*args)

    monkeypatch.setattr(LoRAProduct, "forward", staticmethod(count))
    return calls


def test_every_adapter_of_a_model_computes_so(tiny_lm, counted):
    """Those that are added later, too, whichever is in force; seven products a layer."""
    lm = tiny_lm(lora=SMALL, adapters=["g"])
    lm.add_adapter("v", seed=1)
    layout = lm.layout([[Branch([5, 6, 7]), Branch([8], 0), Branch([9], 0)]])
    for adapter in ("g", "v"):
        counted[0] = 0
        with lm.using(adapter):
            lm.hidden(layout)
        assert counted[0] == 7 * lm.base.config.num_hidden_layers
    counted[0] = 0
    with lm.using(None):
        lm.hidden(layout)
    assert counted[0] == 0
