"""DeepFM (Guo et al., IJCAI 2017, arXiv 1703.04247).

Shapes: B batch, D dim, F fields.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from trackrec.ctr.features.features import FeatureSpec
from trackrec.ctr.nets.blocks import MLP, fm_pooling
from trackrec.ctr.nets.inputs import FieldInputs, LinearTerm, flatten_fields


class DeepFM(nn.Module):
    """logit = <w, x> + Σ_{i<j} <v_i, v_j> + MLP([v_1 ; … ; v_F ; dense]), eq. 1-3 of the paper.

    The fields are those of :class:`FieldInputs`.

    Args:
        spec: sizes of the features.
        connector: takes ``batch["text"]``; None where there is no text.
        embed_dim: D.
        hidden: widths of the MLP.
        dropout: in the MLP.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        connector: nn.Module | None = None,
        embed_dim: int = 16,
        hidden: Sequence[int] = (200, 80),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.inputs = FieldInputs(spec, connector, embed_dim)
        self.linear = LinearTerm(spec)
        self.mlp = MLP(self.inputs.flat_width, hidden, dropout=dropout)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """A batch of :class:`trackrec.ctr.training.data.TensorLoader` -> logits (B,)."""
        fields = self.inputs(batch)
        deep = self.mlp(flatten_fields(fields, batch)).squeeze(-1)
        logits: Tensor = self.linear(batch) + fm_pooling(fields) + deep
        return logits
