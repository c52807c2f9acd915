"""Attention: grouped products on CPU, FlexAttention for packed rows on a GPU, SDPA for everything else.

A soft cap of the scores and attention sinks, which SDPA silently leaves out, are computed as plain products.

torch's fused attention on CPU copies keys and values once per query head, reads a mask slowly and takes twice the time
of plain products in bfloat16 (scripts/bench_attention.py, docs/benchmarks.md). Here the query heads that share a key
head form one matrix product, one row of the batch at a time, so that its scores stay in the CPU cache, and blocks of
queries skip the keys after them. Keys and values are never repeated, and the backward pass recomputes the probabilities
instead of storing them.

Shapes: B rows, H query heads in G groups (key heads), T queries, S keys (the last T belong to the queries' tokens),
D head width of queries and keys, E of values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from trackrec.runtime.errors import SettingError

NAME = "trackrec_sdpa"
_BLOCK = 128  # queries per product


class SharedPrefix(NamedTuple):
    """The prompt that all of its draws share during generation. A decoder passes it down to its layers.

    Attributes:
        layers: per layer, keys and values of P prompts, (P, G, W, D) each.
        hidden: (P, W) 0 at prompt tokens, -inf at padding; W is the padded width.
    """

    layers: Sequence[tuple[Tensor, Tensor]]
    hidden: Tensor


class GroupedAttention(torch.autograd.Function):
    """softmax(scale q k' + mask) v for a mask that hides every key after its query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
        """(B, H, T, D), (B, G, S, D), (B, G, S, E), additive (B, T, S) -> (B, H, T, E)."""
        ctx.save_for_backward(query, key, value, mask)
        ctx.scale = scale
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        for row in range(query.shape[0]):
            for start, stop, seen in _blocks(query.shape[2], key.shape[2]):
                p = _probabilities(query, key, mask, scale, row, start, stop, seen)
                out[row, :, start:stop] = _split(torch.bmm(p, value[row, :, :seen]), query.shape[1])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """The standard gradients, block by block; a key head sums the gradients of all its query heads."""
        query, key, value, mask = ctx.saved_tensors
        H = query.shape[1]
        groups = key.shape[1]
        d_query = torch.empty_like(query, memory_format=torch.contiguous_format)
        d_key, d_value = torch.zeros_like(key), torch.zeros_like(value)
        for row in range(query.shape[0]):
            for start, stop, seen in _blocks(query.shape[2], key.shape[2]):
                p = _probabilities(query, key, mask, ctx.scale, row, start, stop, seen)
                upstream = _join(grad[row, :, start:stop], groups)
                d_value[row, :, :seen] += torch.bmm(p.transpose(1, 2), upstream)
                d_p = torch.bmm(upstream, value[row, :, :seen].transpose(1, 2))
                d_scores = torch._softmax_backward_data(d_p, p, -1, p.dtype).mul_(ctx.scale)
                d_query[row, :, start:stop] = _split(torch.bmm(d_scores, key[row, :, :seen]), H)
                d_key[row, :, :seen] += torch.bmm(d_scores.transpose(1, 2), _join(query[row, :, start:stop], groups))
        return d_query, d_key, d_value, None, None


def _blocks(queries: int, keys: int) -> Iterator[tuple[int, int, int]]:
    """Blocks of queries: (first query, one past the last, how many keys they can see)."""
    for start in range(0, queries, _BLOCK):
        stop = min(start + _BLOCK, queries)
        yield start, stop, keys - queries + stop


def _join(heads: Tensor, groups: int) -> Tensor:
    """(H, t, D) -> (G, H / G * t, D): the query heads of one key head in one matrix."""
    return heads.reshape(groups, -1, heads.shape[-1])


def _split(joined: Tensor, heads: int) -> Tensor:
    """The inverse of `_join`."""
    return joined.reshape(heads, -1, joined.shape[-1])


def _probabilities(
    query: Tensor, key: Tensor, mask: Tensor, scale: float, row: int, start: int, stop: int, seen: int
) -> Tensor:
    """(G, H / G * (stop - start), seen) attention probabilities of one block of one row."""
    groups = key.shape[1]
    joined = _join(query[row, :, start:stop], groups)
    bias = mask[row, start:stop, :seen].repeat(query.shape[1] // groups, 1)
    scores = torch.baddbmm(bias.expand(groups, -1, -1), joined, key[row, :, :seen].transpose(1, 2), alpha=scale)
    return scores.softmax(-1)


def _weights(scores: Tensor, mask: Tensor | None, cap: float | None, sinks: Tensor | None) -> Tensor:
    """softmax of (..., S) scores, capped as ``cap tanh(scores / cap)`` (Gemma 2) before the additive mask.

    ``sinks`` broadcasts to (..., 1): one more score, whose share of the softmax goes to no key (gpt-oss).
    """
    if cap:
        scores = torch.tanh(scores / cap) * cap
    if mask is not None:
        scores = scores + mask
    if sinks is None:
        return scores.softmax(-1)
    return torch.cat([scores, sinks.to(scores.dtype).expand(*scores.shape[:-1], 1)], -1).softmax(-1)[..., :-1]


def _plain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    cap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """All queries against all keys, scores in float32: for a decoding step, and for what SDPA lacks.

    Args:
        query: (B, H, T, D).
        key: (B, G, S, D).
        value: (B, G, S, E).
        mask: additive (B, T, S), or None.
        scale: factor of the scores.
        cap: see `_weights`.
        sinks: (H,) or None; see `_weights`.
    """
    B, H, T, _ = query.shape
    groups = key.shape[1]
    grouped = query.reshape(B, groups, H // groups * T, -1)
    scores = torch.matmul(grouped, key.transpose(2, 3)).float() * scale
    by_head = scores.view(B, groups, H // groups, T, -1)
    extra = None if sinks is None else sinks.reshape(groups, H // groups, 1, 1)
    weights = _weights(by_head, None if mask is None else mask[:, None, None], cap, extra).view(scores.shape)
    return torch.matmul(weights.to(value.dtype), value).reshape(B, H, T, -1)


def _after_prefix(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix: tuple[Tensor, Tensor],
    hidden: Tensor,
    scale: float,
    cap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """A decoding step of P prompts with n draws each: a draw attends to the shared prompt and to its own new tokens.

    Args:
        query: (P n, H, 1, D).
        key: (P n, G, t, D), of the t new tokens of each draw.
        value: (P n, G, t, E).
        prefix: keys (P, G, W, D) and values (P, G, W, E) of the prompts.
        hidden: (P, W), added to the scores.
        scale: factor of the scores.
        cap: see `_weights`.
        sinks: (H,) or None; see `_weights`.
    """
    R, H, _, D = query.shape
    P, G, W, _ = prefix[0].shape
    n, h = R // P, H // G

    def by_prompt(rows: Tensor) -> Tensor:  # (R, G, h, x) -> (P, G, n h, x)
        return rows.view(P, n, G, h, -1).transpose(1, 2).reshape(P, G, n * h, -1)

    def by_row(joined: Tensor) -> Tensor:  # the inverse
        return joined.view(P, G, n, h, -1).transpose(1, 2).reshape(R, G, h, -1)

    grouped = query.reshape(R, G, h, D)
    prompt_scores = by_row(torch.matmul(by_prompt(grouped), prefix[0].transpose(2, 3)).float())
    scores = torch.cat([prompt_scores, torch.matmul(grouped, key.transpose(2, 3)).float()], -1) * scale
    mask = torch.nn.functional.pad(hidden, (0, key.shape[2])).repeat_interleave(n, 0)[:, None, None]
    extra = None if sinks is None else sinks.reshape(G, h, 1)
    p = _weights(scores, mask, cap, extra).to(value.dtype)
    out = by_row(torch.matmul(by_prompt(p[..., :W]), prefix[1])) + torch.matmul(p[..., W:], value)
    return out.reshape(R, H, 1, -1)


def _additive(mask: Tensor, keys: int, dtype: torch.dtype) -> Tensor:
    """A (B, 1, T, S) bool or additive mask as an additive (B, T, S) mask."""
    mask = mask[:, 0, :, :keys]
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


@cache
def _compiled_flex() -> Any:
    """FlexAttention, compiled at its first use."""
    return torch.compile(flex_attention)


def sdpa_or_grouped(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention interface.

    Args:
        module: the attention layer.
        query: (B, H, T, D).
        key: (B, G, S, D).
        value: (B, G, S, E).
        attention_mask: (B, 1, T, S) bool or additive, causal for T > 1; a BlockMask; or None.
        options: scaling, softcap, s_aux, dropout and other keywords of the model; ``shared_prefix`` in a decoding step
            with a shared prompt.

    Returns:
        (B, T, H, E), and None in place of the attention weights.

    Raises:
        SettingError: a BlockMask with attention dropout, a position bias, a soft cap or sinks.
    """
    B, _, T, D = query.shape
    scale = options.get("scaling") or D**-0.5
    cap: float | None = options.get("softcap")
    sinks: Tensor | None = options.get("s_aux")
    prefix: SharedPrefix | None = options.get("shared_prefix")
    if prefix is not None:
        layer = prefix.layers[int(module.layer_idx)]  # type: ignore[arg-type]
        out = _after_prefix(query, key, value, layer, prefix.hidden, scale, cap, sinks)
        return out.transpose(1, 2).contiguous(), None
    one_query = T == 1 and not torch.is_grad_enabled()
    causal = one_query or (attention_mask is not None and getattr(module, "is_causal", False))
    left_to_sdpa = options.get("dropout") or options.get("position_bias") is not None
    beyond_sdpa = cap is not None or sinks is not None
    if isinstance(attention_mask, BlockMask):
        if left_to_sdpa or beyond_sdpa:
            raise SettingError(
                "backbone.attention: flex doesn't support attention dropout, position bias, soft cap or sinks: set it "
                "to sdpa."
            )
        # Under autocast the rotary embedding may leave queries and keys in float32.
        query, key = query.to(value.dtype), key.to(value.dtype)
        grouped = query.shape[1] != key.shape[1]
        out = _compiled_flex()(query, key, value, block_mask=attention_mask, scale=scale, enable_gqa=grouped)
        return out.transpose(1, 2).contiguous(), None
    if left_to_sdpa or not (beyond_sdpa or (causal and query.device.type == "cpu")):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    # Under autocast the rotary embedding leaves queries and keys in float32, while values have the autocast dtype.
    query, key = query.to(value.dtype), key.to(value.dtype)
    S = key.shape[2]
    if attention_mask is None and T > 1 and getattr(module, "is_causal", True):
        attention_mask = torch.ones(1, 1, T, S, dtype=torch.bool, device=query.device).tril(S - T)
    mask = None if attention_mask is None else _additive(attention_mask, S, query.dtype)
    if one_query or beyond_sdpa or mask is None:
        out = _plain(query, key, value, mask, scale, cap, sinks)
    else:
        out = GroupedAttention.apply(query, key, value, mask.expand(B, -1, -1), scale)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2).contiguous(), None


def register() -> str:
    """Register the attention in transformers, with SDPA's masks; returns its name for ``attn_implementation``."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, sdpa_or_grouped)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME
