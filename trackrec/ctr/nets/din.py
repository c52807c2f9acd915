"""Deep Interest Network (Zhou et al., KDD 2018, arXiv 1706.06978) over a rated history.

Shapes: B batch, H recent list, D dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trackrec.ctr.features.features import FeatureSpec
from trackrec.ctr.nets.blocks import MLP, DINAttention
from trackrec.ctr.nets.inputs import SequenceInputs


class DIN(nn.Module):
    """logit = MLP([Σ_j a(h_j, t) h_j ; t ; dense ; text]), fig. 2 and eq. 3 of the paper.

    h_j adds a rating vector to the item's, since a disliked film is no interest. As in the paper there is no user id.

    Args:
        spec: sizes of the features.
        connector: takes ``batch["text"]``; None where there is no text.
        embed_dim: D.
        hidden: widths of the MLP.
        attention_hidden: widths of the activation unit.
        dropout: in the MLP.
        softmax: normalise the attention weights (the paper doesn't).
    """

    def __init__(
        self,
        spec: FeatureSpec,
        connector: nn.Module | None = None,
        embed_dim: int = 16,
        hidden: Sequence[int] = (200, 80),
        attention_hidden: Sequence[int] = (64,),
        dropout: float = 0.2,
        softmax: bool = False,
    ) -> None:
        super().__init__()
        self.inputs = SequenceInputs(spec, connector, embed_dim)
        self.attention = DINAttention(embed_dim, attention_hidden, softmax)
        self.mlp = MLP(2 * embed_dim + self.inputs.side_width, hidden, dropout=dropout)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """A batch of :class:`trackrec.ctr.training.data.TensorLoader` -> logits (B,)."""
        x = self.inputs(batch)
        interest = self.attention(x.recent, x.target, batch["recent_mask"])
        logits: Tensor = self.mlp(torch.cat([interest, x.target, x.side], dim=-1)).squeeze(-1)
        return logits
