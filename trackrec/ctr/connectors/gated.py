"""A connector with a gate.

Shapes: B batch, E out_dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trackrec.ctr.nets.blocks import MLP


class GatedConnector(nn.Module):
    """g * MLP(x), g = σ(<w, x> + b): one gate per text, x the text normalised to one scale.

    b starts at ``gate_start``, so that the text has little weight at first and gains more only if that lowers the loss:
    with few users a net memorises an ungated text. The mean gate over validation texts is the metric ``gate_mean``.

    Args:
        text_dim: width of the text vector.
        out_dim: width handed to the net.
        hidden: hidden widths of the MLP.
        dropout: on the hidden layers.
        gate_start: b at the start; σ(-2) = .12.
    """

    def __init__(
        self,
        text_dim: int,
        out_dim: int = 16,
        hidden: Sequence[int] = (64,),
        dropout: float = 0.1,
        gate_start: float = -2.0,
    ) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.norm = nn.LayerNorm(text_dim, elementwise_affine=False)
        self.mlp = MLP(text_dim, hidden, out_dim, dropout)
        self.gate = nn.Linear(text_dim, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, gate_start)

    def forward(self, text: Tensor) -> Tensor:
        """(B, text_dim) -> (B, E)."""
        x = self.norm(text)
        vector: Tensor = torch.sigmoid(self.gate(x)) * self.mlp(x)
        return vector

    def facts(self, text: Tensor) -> dict[str, float]:
        """``gate_mean``, the mean gate over texts (n_texts, text_dim)."""
        return {"gate_mean": torch.sigmoid(self.gate(self.norm(text))).mean().item()}
