"""AutoInt (Song et al., CIKM 2019, arXiv 1810.11921).

Shapes: B batch, F fields, D dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trackrec.ctr.features.features import FeatureSpec
from trackrec.ctr.nets.blocks import MLP
from trackrec.ctr.nets.inputs import FieldInputs, LinearTerm, flatten_fields
from trackrec.runtime.errors import SettingError


class InteractingLayer(nn.Module):
    """e'_m = ReLU([Σ_k α^h_mk W^h_V e_k]_h + W_Res e_m), α^h_mk = softmax_k <W^h_Q e_m, W^h_K e_k>, eq. 5-8.

    Args:
        in_dim: width of a field.
        out_dim: width of a field after the layer, shared by the heads.
        n_heads: heads.
    """

    def __init__(self, in_dim: int, out_dim: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.projections = nn.Linear(in_dim, 3 * out_dim, bias=False)  # queries, keys, values
        self.residual = nn.Linear(in_dim, out_dim, bias=False)

    def forward(self, fields: Tensor) -> Tensor:
        """(B, F, in_dim) -> (B, F, out_dim)."""
        split = self.projections(fields).unflatten(-1, (3, self.n_heads, -1))  # (B, F, 3, heads, D')
        q, k, v = split.permute(2, 0, 3, 1, 4)
        heads = (q @ k.transpose(-1, -2)).softmax(dim=-1) @ v  # (B, heads, F, D')
        return torch.relu(heads.transpose(1, 2).flatten(2) + self.residual(fields))


class AutoInt(nn.Module):
    """logit = <w, x> + <w', e'> + MLP([v_1 ; … ; v_F ; dense]): the paper's AutoInt+, with a first-order part.

    Args:
        spec: sizes of the features.
        connector: takes ``batch["text"]``; None where there is no text.
        embed_dim: D.
        n_layers: interacting layers.
        n_heads: heads of each.
        hidden: widths of the MLP.
        dropout: in the MLP.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        connector: nn.Module | None = None,
        embed_dim: int = 16,
        n_layers: int = 2,
        n_heads: int = 2,
        hidden: Sequence[int] = (200, 80),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        width = 2 * embed_dim
        if n_layers < 1 or width % n_heads:
            raise SettingError(
                f"ctr.net: AutoInt needs n_layers of at least 1 and n_heads that divide {width} (twice embed_dim), "
                f"got {n_layers} and {n_heads}."
            )
        self.inputs = FieldInputs(spec, connector, embed_dim)
        self.linear = LinearTerm(spec)
        self.layers = nn.Sequential(
            *(InteractingLayer(width if layer else embed_dim, width, n_heads) for layer in range(n_layers))
        )
        self.output = nn.Linear(self.inputs.n_fields * width, 1, bias=False)
        self.mlp = MLP(self.inputs.flat_width, hidden, dropout=dropout)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """A batch of :class:`trackrec.ctr.training.data.TensorLoader` -> logits (B,)."""
        fields = self.inputs(batch)
        interactions = self.output(self.layers(fields).flatten(1)).squeeze(-1)
        logits: Tensor = self.linear(batch) + interactions + self.mlp(flatten_fields(fields, batch)).squeeze(-1)
        return logits
