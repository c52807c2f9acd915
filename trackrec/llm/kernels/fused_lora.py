"""A linear layer and its LoRA adapter as one product with one gradient, on CPU.

PEFT computes x W' and x A' B' separately, scales the second and adds them: two extra passes over the widest tensors of
a layer, and two for their gradients. Here the scale is multiplied into B, and the second product is accumulated into
the first. The results are equal up to rounding. Everything beyond plain LoRA is left to PEFT.

Shapes: M tokens, I inputs, O outputs, r rank.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LoRAProduct(torch.autograd.Function):
    """x W' + bias + scale x A' B' (Hu et al. 2021, eq. 3), W and the bias frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        """(..., I), (O, I), (O,), (r, I), (O, r) -> (..., O), in the dtype of the frozen weight."""
        flat = x.reshape(-1, x.shape[-1])
        low_a = a.to(weight.dtype)
        low_b = (b * scale).to(weight.dtype)
        down = flat @ low_a.t()
        out = F.linear(flat, weight, bias).addmm_(down, low_b.t())
        ctx.save_for_backward(flat, weight, low_a, low_b, down)
        ctx.scale = scale
        ctx.types = (a.dtype, b.dtype)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        """Gradients of x, A and B."""
        flat, weight, low_a, low_b, down = ctx.saved_tensors
        upstream = grad.reshape(-1, grad.shape[-1])
        back = upstream @ low_b
        d_a = (back.t() @ flat).to(ctx.types[0])
        d_b = (down.t() @ upstream).t().to(ctx.types[1]) * ctx.scale
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = (upstream @ weight).addmm_(back, low_a).view(*grad.shape[:-1], -1)
        return d_x, None, None, d_a, d_b, None


def fuse(model: nn.Module) -> None:
    """Make LoRA layers on CPU compute with `LoRAProduct`; layers that already do are left unchanged."""
    from peft.tuners.lora import Linear

    for layer in model.modules():
        if type(layer) is not Linear or layer.fan_in_fan_out or "forward" in vars(layer):
            continue
        base = layer.base_layer
        if type(base) is nn.Linear and base.weight.device.type == "cpu":
            layer.forward = MethodType(_forward, layer)  # type: ignore[method-assign]


def _forward(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Replace PEFT's ``Linear.forward`` for plain LoRA with one active adapter; everything else goes to PEFT."""
    name = layer.active_adapters[0] if len(layer.active_adapters) == 1 else None
    base = layer.base_layer
    product_dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else base.weight.dtype
    plain_lora = (
        not (args or kwargs or layer.disable_adapters or layer.merged)
        and name in layer.lora_A
        and name not in layer.lora_variant
        and isinstance(layer.lora_dropout[name], nn.Identity)
        and layer.lora_B[name].bias is None
        and x.dtype == base.weight.dtype == product_dtype
    )
    if not plain_lora:
        output: Tensor = type(layer).forward(layer, x, *args, **kwargs)
        return output
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    product: Tensor = LoRAProduct.apply(x, base.weight, base.bias, a, b, layer.scaling[name])  # type: ignore[no-untyped-call]
    return product
