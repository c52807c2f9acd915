"""Behaviour Sequence Transformer (Chen et al., 2019, arXiv 1905.06874) over a rated history.

Shapes: B batch, H recent list, T = 1 + H positions, D dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trackrec.ctr.features.features import FeatureSpec
from trackrec.ctr.nets.blocks import MLP, Dropout
from trackrec.ctr.nets.embedding import INIT_STD, masked_mean
from trackrec.ctr.nets.inputs import SequenceInputs
from trackrec.runtime.errors import SettingError


class TransformerBlock(nn.Module):
    """s = LN(x + MH(x)); y = LN(s + W_2 LeakyReLU(W_1 s)), eq. 4-7 of the paper; dropout before each sum.

    Args:
        dim: D.
        n_heads: heads; they share D.
        dropout: before each sum.
    """

    def __init__(self, dim: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, n_heads, batch_first=True)
        self.first_norm, self.second_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D), (B, T) bool, true where there is an item -> (B, T, D)."""
        heads, _ = self.attention(x, x, x, key_padding_mask=~mask, need_weights=False)
        s = self.first_norm(x + self.dropout(heads))
        y: Tensor = self.second_norm(s + self.dropout(self.down(F.leaky_relu(self.up(s)))))
        return y


class BST(nn.Module):
    """logit = MLP([y_t ; mean_j y_j ; t ; side]), y = transformer([h_1 + p ; … ; h_H + p ; t + p]).

    A position p counts back from the target (0), so that padding doesn't shift positions. The paper concatenates
    y_1 … y_H of a fixed length; their mean takes lists of any length. t itself is kept beside y_t, because the
    LayerNorm removes its scale.

    Args:
        spec: sizes of the features.
        connector: takes ``batch["text"]``; None where there is no text.
        embed_dim: D.
        n_heads: heads of the attention.
        n_blocks: transformer blocks (the paper found one enough).
        hidden: widths of the MLP.
        dropout: in the blocks and the MLP.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        connector: nn.Module | None = None,
        embed_dim: int = 16,
        n_heads: int = 2,
        n_blocks: int = 1,
        hidden: Sequence[int] = (200, 80),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if embed_dim % n_heads:
            raise SettingError(f"ctr.net: embed_dim must be a multiple of n_heads ({n_heads}), got {embed_dim}.")
        self.inputs = SequenceInputs(spec, connector, embed_dim)
        self.positions = nn.Embedding(spec.recent_len + 1, embed_dim)
        nn.init.normal_(self.positions.weight, std=INIT_STD)
        self.blocks = nn.ModuleList(TransformerBlock(embed_dim, n_heads, dropout) for _ in range(n_blocks))
        self.mlp = MLP(3 * embed_dim + self.inputs.side_width, hidden, dropout=dropout)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """A batch of :class:`trackrec.ctr.training.data.TensorLoader` -> logits (B,)."""
        x = self.inputs(batch)
        mask = batch["recent_mask"]
        back = (mask.sum(dim=1, keepdim=True) - torch.arange(mask.shape[1], device=mask.device)).clamp(min=0)
        y = torch.cat([x.target.unsqueeze(1) + self.positions.weight[0], x.recent + self.positions(back)], dim=1)
        attended = torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1)  # the target comes first
        for block in self.blocks:
            y = block(y, attended)
        pooled = masked_mean(y[:, 1:], mask)
        logits: Tensor = self.mlp(torch.cat([y[:, 0], pooled, x.target, x.side], dim=-1)).squeeze(-1)
        return logits
