"""Nucleus sampling with one seed per row, independent of the other rows of the batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_SHORTLIST = 256  # most likely tokens that are sorted first


def top_p_choice(logits: Tensor, u: Tensor, temperature: float, top_p: float) -> Tensor:
    """Nucleus sampling by inverting the cumulative distribution, one uniform number per row.

    Args:
        logits: (B, V).
        u: (B,) in [0, 1).
        temperature: divides the logits.
        top_p: the nucleus is the smallest set of most likely tokens with at least this probability
            (Holtzman et al. 2020).

    Returns:
        (B,) token ids. Only the ``_SHORTLIST`` most likely are sorted; rows with a longer nucleus sort all.
    """
    scaled = logits.float()
    if temperature != 1:
        scaled = scaled / temperature
    total = scaled.logsumexp(-1, keepdim=True)
    top, ids = scaled.topk(min(_SHORTLIST, scaled.shape[-1]), dim=-1)
    p = (top - total).exp().double()
    chosen = _invert(p, ids, u, top_p)
    long = p.sum(-1) < top_p
    if long.any() and top.shape[-1] < scaled.shape[-1]:
        top, ids = scaled[long].sort(dim=-1, descending=True)
        chosen[long] = _invert((top - total[long]).exp().double(), ids, u[long], top_p)
    return chosen


def _invert(p: Tensor, ids: Tensor, u: Tensor, top_p: float) -> Tensor:
    """Pick the token where the cumulative probability of the nucleus passes u (B,); p (B, k) is descending."""
    kept = (p.cumsum(-1) - p) < top_p
    inside = (p * kept).cumsum(-1)
    rank = (inside <= u.double().unsqueeze(-1) * inside[:, -1:]).sum(-1)
    rank = rank.clamp(max=kept.sum(-1) - 1)
    return ids.gather(-1, rank.unsqueeze(-1)).squeeze(-1)


class SeededTopP:
    """Chooses the next token of each row with a separate stream of uniform numbers per row.

    Args:
        seeds: one per row.
        steps: largest number of tokens per row.
        temperature: see `top_p_choice`.
        top_p: see `top_p_choice`.
    """

    def __init__(self, seeds: Sequence[int], steps: int, temperature: float, top_p: float) -> None:
        self.temperature, self.top_p = temperature, top_p
        generator = torch.Generator()
        streams = [torch.rand(steps, generator=generator.manual_seed(seed), dtype=torch.float64) for seed in seeds]
        self.u = torch.stack(streams)  # (rows, steps)

    def __call__(self, logits: Tensor, rows: Tensor, step: int) -> Tensor:
        """(B, V) logits of the ``rows`` (B,) that are still being written -> (B,) token ids."""
        self.u = self.u.to(logits.device)
        return top_p_choice(logits, self.u[rows, step], self.temperature, self.top_p)


def greedy(logits: Tensor, _rows: Tensor, _step: int) -> Tensor:
    """The most likely token of each row."""
    return logits.argmax(-1)
