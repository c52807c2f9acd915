"""Attention for one new token: grouped queries against a cache that is never repeated.

torch's fused attention on CPU copies the cache once per query head and runs the kernel of a whole prompt for a single
row, where two small products do (scripts/bench_decode_attention.py, docs/benchmarks.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

NAME = "trackrec_sdpa"


def sdpa_or_grouped(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention interface: SDPA for prompts and training, grouped products for one query on CPU.

    Args:
        module: the attention layer.
        query: (B, heads, T, D).
        key: (B, kv_heads, S, D).
        value: (B, kv_heads, S, D).
        attention_mask: (B, 1, T, S) bool or additive, or None.
        options: scaling, dropout and what else a model passes.

    Returns:
        (B, T, heads, D), and no weights.
    """
    one_query = query.shape[2] == 1 and query.device.type == "cpu" and not torch.is_grad_enabled()
    if not one_query or options.get("softcap") or options.get("s_aux") is not None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    B, heads, _, D = query.shape
    groups = key.shape[1]
    scale = options.get("scaling") or D**-0.5
    scores = torch.matmul(query.view(B, groups, heads // groups, D), key.transpose(2, 3)).float() * scale
    if attention_mask is not None:
        mask = attention_mask[..., : key.shape[2]]  # (B, 1, 1, S) meets (B, groups, heads / groups, S)
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    out = torch.matmul(scores.softmax(-1).to(value.dtype), value)
    return out.reshape(B, 1, heads, D), None


def register() -> str:
    """Make it known to transformers, with SDPA's masks; returns the name to ask for."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, sdpa_or_grouped)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME
