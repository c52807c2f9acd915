"""Deep Interest Evolution Network (Zhou et al., AAAI 2019, arXiv 1809.03672) over a rated history.

Shapes: B batch, H recent list, D dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trackrec.ctr.features.features import FeatureSpec
from trackrec.ctr.nets.blocks import MLP
from trackrec.ctr.nets.inputs import SequenceInputs


class AUGRU(nn.Module):
    """GRU with attentional update gate: ũ = a u; h ← (1 - ũ) h + ũ h̃, eq. 12-14 of the paper.

    u, r = σ(W x + U h + b), h̃ = tanh(W x + r * (U h) + b). A step with a = 0, such as padding, leaves h as it was.

    Args:
        dim: D of inputs and state.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.of_input = nn.Linear(dim, 3 * dim)
        self.of_state = nn.Linear(dim, 3 * dim, bias=False)

    def forward(self, x: Tensor, attention: Tensor) -> Tensor:
        """(B, H, D), (B, H) -> the last state (B, D)."""
        state = x.new_zeros(x.shape[0], x.shape[2])
        update_x, reset_x, new_x = self.of_input(x).chunk(3, dim=-1)
        for j in range(x.shape[1]):
            update_h, reset_h, new_h = self.of_state(state).chunk(3, dim=-1)
            update = attention[:, j : j + 1] * torch.sigmoid(update_x[:, j] + update_h)
            new = torch.tanh(new_x[:, j] + torch.sigmoid(reset_x[:, j] + reset_h) * new_h)
            state = (1 - update) * state + update * new
        return state


class Logits(NamedTuple):
    """Logits (B,) and a loss to be added to their cross-entropy."""

    logits: Tensor
    auxiliary: Tensor


class DIEN(nn.Module):
    """logit = MLP([AUGRU(GRU(h), a(·, t)) ; t ; side]), a_j = softmax_j(g_j W t) over real positions (eq. 11).

    The paper's auxiliary loss separates the next clicked item from a sampled one. A rated history holds dislikes, so
    here it predicts whether item j + 1 was liked, from [g_j ; its vector without the rating] (eq. 6-7 read that way).

    Args:
        spec: sizes of the features.
        connector: takes ``batch["text"]``; None where there is no text.
        embed_dim: D.
        hidden: widths of the MLP.
        auxiliary_weight: of the auxiliary loss beside the cross-entropy; 0 leaves it out.
        dropout: in the MLP.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        connector: nn.Module | None = None,
        embed_dim: int = 16,
        hidden: Sequence[int] = (200, 80),
        auxiliary_weight: float = 0.5,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.inputs = SequenceInputs(spec, connector, embed_dim)
        self.extractor = nn.GRU(embed_dim, embed_dim, batch_first=True)
        self.attention = nn.Linear(embed_dim, embed_dim, bias=False)
        self.evolution = AUGRU(embed_dim)
        self.next_liked = MLP(2 * embed_dim, (32,)) if auxiliary_weight else None
        self.auxiliary_weight = auxiliary_weight
        self.mlp = MLP(2 * embed_dim + self.inputs.side_width, hidden, dropout=dropout)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """A batch of :class:`trackrec.ctr.training.data.TensorLoader` -> logits (B,)."""
        return self._run(batch)[0]

    def with_auxiliary(self, batch: dict[str, Tensor]) -> Logits:
        """The same logits, and the weighted auxiliary loss, for training."""
        logits, interests = self._run(batch)
        if self.next_liked is None:
            return Logits(logits, logits.new_zeros(()))
        return Logits(logits, self.auxiliary_weight * self._auxiliary(batch, interests))

    def _run(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        x = self.inputs(batch)
        mask = batch["recent_mask"]
        interests, _ = self.extractor(x.recent)  # (B, H, D); padding is on the right, after every real step
        scores = (self.attention(interests) * x.target.unsqueeze(1)).sum(dim=-1)  # (B, H)
        weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=-1).masked_fill(~mask, 0.0)
        evolved = self.evolution(interests, weights)
        return self.mlp(torch.cat([evolved, x.target, x.side], dim=-1)).squeeze(-1), interests

    def _auxiliary(self, batch: dict[str, Tensor], interests: Tensor) -> Tensor:
        """Mean cross-entropy of "item j + 1 was liked" over pairs of real neighbours; 0 where there is none."""
        assert self.next_liked is not None
        items = self.inputs.items.unrated(batch)
        logits = self.next_liked(torch.cat([interests[:, :-1], items[:, 1:]], dim=-1)).squeeze(-1)
        liked = (batch["recent_ratings"][:, 1:] > 0).to(logits.dtype)
        real = batch["recent_mask"][:, 1:].to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits, liked, reduction="none")
        return (losses * real).sum() / real.sum().clamp(min=1.0)
