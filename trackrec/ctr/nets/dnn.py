"""A plain deep network over embedded fields (Covington et al., RecSys 2016): what every other net must beat."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from trackrec.ctr.features.features import FeatureSpec
from trackrec.ctr.nets.blocks import MLP
from trackrec.ctr.nets.inputs import FieldInputs, flatten_fields


class DNN(nn.Module):
    """logit = MLP([v_1 ; … ; v_F ; dense]) over the fields of :class:`FieldInputs`.

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
        self.mlp = MLP(self.inputs.flat_width, hidden, dropout=dropout)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """A batch of :class:`trackrec.ctr.training.data.TensorLoader` -> logits (B,)."""
        logits: Tensor = self.mlp(flatten_fields(self.inputs(batch), batch)).squeeze(-1)
        return logits
