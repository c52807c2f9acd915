"""Log-probabilities of chosen tokens at chosen positions: the only code that computes logits in training and scoring.

Logits are computed only for the requested positions, ``CHUNK`` of them at a time, and recomputed in the backward pass,
so no tensor of (row tokens x vocabulary) is ever held. Shapes: M requested positions, D dim, V vocabulary, L requested
tokens per position.
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
        lm: the model, used for its output layer.
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
    """Summed log-probabilities of branches, each token given the tokens before it on its path.

    Args:
        lm: the model, with its adapter already active.
        layout: the trees.
        wanted: (tree, branch) pairs.
        tokens: the ids of each wanted branch.

    Returns:
        sums (len(wanted),) and the number of tokens of each branch, both float32.

    Raises:
        ValueError: a branch is a root, so that nothing predicts its first token.
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
    branch_index = torch.repeat_interleave(torch.arange(len(tokens), device=hidden.device), lengths)
    sums = torch.zeros(len(tokens), device=hidden.device, dtype=logps.dtype).index_add(0, branch_index, logps)
    return sums, lengths.to(logps.dtype)


def next_token_logprobs(lm: LanguageModel, layout: Layout, spots: Sequence[Spot], tokens: Sequence[int]) -> Tensor:
    """log p of each of ``tokens`` (L) right after each branch (M): (M, L) float32."""
    rows = [spot.row for spot in spots]
    columns = [spot.start + spot.length - 1 for spot in spots]
    hidden = lm.hidden(layout)[rows, columns]
    targets = torch.tensor(tokens, device=hidden.device).expand(len(spots), -1)
    return selected_logprobs(lm, hidden, targets)
