"""FiBiNET (Huang et al., RecSys 2019, arXiv 1905.09433).

Shapes: B batch, F fields, D dim, P pairs of fields.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trackrec.ctr.features.features import FeatureSpec
from trackrec.ctr.nets.blocks import MLP
from trackrec.ctr.nets.inputs import FieldInputs, LinearTerm


class SENet(nn.Module):
    """Fields weighted by a gate on all of them: v_i = a_i e_i, a = ReLU(W_2 ReLU(W_1 z)), z_i = mean_d e_id (eq. 3-5).

    Args:
        n_fields: F.
        reduction: the middle layer has F / reduction units, at least one.
    """

    def __init__(self, n_fields: int, reduction: int) -> None:
        super().__init__()
        middle = max(1, n_fields // reduction)
        self.squeeze = nn.Linear(n_fields, middle, bias=False)
        self.excite = nn.Linear(middle, n_fields, bias=False)
        # Positive weights: after two ReLUs a field with negative weights would never get a gradient.
        nn.init.uniform_(self.squeeze.weight, 0.0, 2.0 / n_fields)
        nn.init.uniform_(self.excite.weight, 0.0, 2.0 / middle)

    def forward(self, fields: Tensor) -> Tensor:
        """(B, F, D) -> (B, F, D)."""
        weights = torch.relu(self.excite(torch.relu(self.squeeze(fields.mean(dim=-1)))))
        return fields * weights.unsqueeze(-1)


class BilinearInteraction(nn.Module):
    """p_ij = (v_i W_i) * v_j for i < j: the paper's field-each form (eq. 7).

    Args:
        n_fields: F.
        dim: D.
    """

    def __init__(self, n_fields: int, dim: int) -> None:
        super().__init__()
        first, second = torch.triu_indices(n_fields, n_fields, offset=1)
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("second", second, persistent=False)
        matrices = [nn.init.xavier_uniform_(torch.empty(dim, dim)) for _ in range(n_fields - 1)]
        self.weights = nn.Parameter(torch.stack(matrices))

    def forward(self, fields: Tensor) -> Tensor:
        """(B, F, D) -> (B, P, D)."""
        left = torch.einsum("bfd,fde->bfe", fields[:, :-1], self.weights)
        return left[:, self.get_buffer("first")] * fields[:, self.get_buffer("second")]


class FiBiNET(nn.Module):
    """logit = <w, x> + MLP([p(e) ; p(SENet(e)) ; dense]), fig. 1 and eq. 9-11 of the paper.

    Args:
        spec: sizes of the features.
        connector: takes ``batch["text"]``; None where there is no text.
        embed_dim: D.
        reduction: of the SENet layer.
        hidden: widths of the MLP.
        dropout: in the MLP.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        connector: nn.Module | None = None,
        embed_dim: int = 16,
        reduction: int = 2,
        hidden: Sequence[int] = (200, 80),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.inputs = FieldInputs(spec, connector, embed_dim)
        n_fields = self.inputs.n_fields
        self.linear = LinearTerm(spec)
        self.senet = SENet(n_fields, reduction)
        self.bilinear = BilinearInteraction(n_fields, embed_dim)
        self.senet_bilinear = BilinearInteraction(n_fields, embed_dim)
        self.mlp = MLP(n_fields * (n_fields - 1) * embed_dim + spec.n_dense, hidden, dropout=dropout)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """A batch of :class:`trackrec.ctr.training.data.TensorLoader` -> logits (B,)."""
        fields = self.inputs(batch)
        pairs = torch.cat([self.bilinear(fields), self.senet_bilinear(self.senet(fields))], dim=1)
        linear = self.linear(batch)
        logits: Tensor = linear + self.mlp(torch.cat([pairs.flatten(1), batch["dense"]], dim=-1)).squeeze(-1)
        return logits
