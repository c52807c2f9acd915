"""xDeepFM (Lian et al., KDD 2018, arXiv 1803.05170).

Shapes: B batch, D dim, F fields, M feature maps of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trackrec.ctr.features.features import FeatureSpec
from trackrec.ctr.nets.blocks import MLP
from trackrec.ctr.nets.inputs import FieldInputs, LinearTerm, flatten_fields


class CIN(nn.Module):
    """Compressed interaction network: x^k_m = Σ_ij W^{k,m}_ij (x^{k-1}_i * x^0_j), each map summed over D (eq. 6-8).

    Args:
        n_fields: F.
        maps: M of each layer.
    """

    def __init__(self, n_fields: int, maps: Sequence[int]) -> None:
        super().__init__()
        below = [n_fields, *maps[:-1]]
        self.weights = nn.ParameterList(
            nn.init.xavier_uniform_(torch.empty(m, before * n_fields)).reshape(m, before, n_fields)
            for m, before in zip(maps, below, strict=True)
        )
        self.out_dim = sum(maps)

    def forward(self, fields: Tensor) -> Tensor:
        """(B, F, D) -> (B, ΣM)."""
        x = fields
        pooled = []
        for weight in self.weights:
            x = torch.einsum("mij,bid,bjd->bmd", weight, x, fields)
            pooled.append(x.sum(dim=-1))
        return torch.cat(pooled, dim=-1)


class xDeepFM(nn.Module):  # noqa: N801 - the paper's name
    """logit = <w, x> + <w', CIN(v)> + MLP([v_1 ; … ; v_F ; dense]), eq. 10 of the paper.

    Args:
        spec: sizes of the features.
        connector: takes ``batch["text"]``; None where there is no text.
        embed_dim: D.
        maps: feature maps of each CIN layer.
        hidden: widths of the MLP.
        dropout: in the MLP.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        connector: nn.Module | None = None,
        embed_dim: int = 16,
        maps: Sequence[int] = (16, 16),
        hidden: Sequence[int] = (200, 80),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.inputs = FieldInputs(spec, connector, embed_dim)
        self.linear = LinearTerm(spec)
        self.cin = CIN(self.inputs.n_fields, maps)
        self.cin_output = nn.Linear(self.cin.out_dim, 1, bias=False)
        self.mlp = MLP(self.inputs.flat_width, hidden, dropout=dropout)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """A batch of :class:`trackrec.ctr.training.data.TensorLoader` -> logits (B,)."""
        fields = self.inputs(batch)
        explicit = self.cin_output(self.cin(fields)).squeeze(-1)
        logits: Tensor = self.linear(batch) + explicit + self.mlp(flatten_fields(fields, batch)).squeeze(-1)
        return logits
