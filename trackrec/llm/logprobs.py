"""Log-probabilities of chosen tokens at chosen positions: the one place where logits come into being.

Logits exist for the asked positions only, ``CHUNK`` of them at a time, and are recomputed in the backward pass, so no
tensor of (row tokens x vocabulary) is ever held. Shapes: M asked positions, D dim, V vocabulary, L tokens asked at
each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trackrec.llm.packing import Layout, Spot

if TYPE_CHECKING:
    from trackrec.llm.backbone import LanguageModel

CHUNK = 128


def selected_logprobs(lm: LanguageModel, hidden: Tensor, targets: Tensor) -> Tensor:
    """log p of ``targets`` at each position.

    Args:
        lm: supplies the output layer.
        hidden: (M, D) last hidden states.
        targets: (M, L) token ids.

    Returns:
        (M, L) float32.
    """

    def chunk(states: Tensor, ids: Tensor) -> Tensor:
        total = lm.logits(states).logsumexp(-1, keepdim=True)  # (m, V) -> (m, 1)
        return lm.logits_of(states, ids) - total

    pieces = []
    for states, ids in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True):
        if torch.is_grad_enabled():
            pieces.append(checkpoint(chunk, states, ids, use_reentrant=False))
        else:
            pieces.append(chunk(states, ids))
    return torch.cat(pieces)


def branch_logprobs(
    lm: LanguageModel, layout: Layout, wanted: Sequence[tuple[int, int]], tokens: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of whole branches, each token given its path.

    Args:
        lm: the model, its adapter already chosen.
        layout: the trees.
        wanted: (tree, branch) pairs.
        tokens: the ids of each wanted branch.

    Returns:
        sums (len(wanted),) and the number of tokens of each branch, both float32.
    """
    rows, columns = [], []
    for tree, branch in wanted:
        spot = layout.spots[tree][branch]
        if spot.before < 0:
            raise ValueError(f"branch {branch} of tree {tree} is a root: nothing predicts its first token")
        rows.extend([spot.row] * spot.length)
        columns.extend([spot.before, *range(spot.start, spot.start + spot.length - 1)])
    hidden = lm.hidden(layout)[rows, columns]  # (M, D)
    targets = torch.tensor([token for ids in tokens for token in ids], device=hidden.device)
    logps = selected_logprobs(lm, hidden, targets.unsqueeze(-1)).squeeze(-1)
    lengths = torch.tensor([len(ids) for ids in tokens], device=hidden.device)
    owner = torch.repeat_interleave(torch.arange(len(tokens), device=hidden.device), lengths)
    sums = torch.zeros(len(tokens), device=hidden.device, dtype=logps.dtype).index_add(0, owner, logps)
    return sums, lengths.to(logps.dtype)


def next_token_logprobs(lm: LanguageModel, layout: Layout, spots: Sequence[Spot], tokens: Sequence[int]) -> Tensor:
    """log p of each of ``tokens`` (L) right after each branch (M): (M, L) float32."""
    rows = [spot.row for spot in spots]
    columns = [spot.start + spot.length - 1 for spot in spots]
    hidden = lm.hidden(layout)[rows, columns]
    targets = torch.tensor(tokens, device=hidden.device).expand(len(spots), -1)
    return selected_logprobs(lm, hidden, targets)
