"""DCN-V2 (Wang et al., WWW 2021, arXiv 2008.13535), its parallel form.

Shapes: B batch, N width of the flat input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trackrec.ctr.features.features import FeatureSpec
from trackrec.ctr.nets.blocks import MLP
from trackrec.ctr.nets.inputs import FieldInputs, flatten_fields
from trackrec.runtime.errors import SettingError


class CrossNetwork(nn.Module):
    """x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, eq. 1 of the paper: L layers cross up to L + 1 features.

    Args:
        dim: N.
        n_layers: L.
    """

    def __init__(self, dim: int, n_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(dim, dim) for _ in range(n_layers))

    def forward(self, x0: Tensor) -> Tensor:
        """(B, N) -> (B, N)."""
        x = x0
        for layer in self.layers:
            x = x0 * layer(x) + x
        return x


class DCNv2(nn.Module):
    """logit = <w, [cross(x_0) ; deep(x_0)]>, x_0 = [v_1 ; … ; v_F ; dense], fig. 1 (b) of the paper.

    Args:
        spec: sizes of the features.
        connector: takes ``batch["text"]``; None where there is no text.
        embed_dim: D of a field.
        n_cross: cross layers.
        hidden: widths of the deep part; the last is its output width.
        dropout: in the deep part.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        connector: nn.Module | None = None,
        embed_dim: int = 16,
        n_cross: int = 2,
        hidden: Sequence[int] = (200, 80),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if not hidden:
            raise SettingError("ctr.net: DCNv2 needs at least one width in hidden, got none.")
        self.inputs = FieldInputs(spec, connector, embed_dim)
        self.cross = CrossNetwork(self.inputs.flat_width, n_cross)
        self.deep = MLP(self.inputs.flat_width, hidden[:-1], hidden[-1], dropout)
        self.output = MLP(self.inputs.flat_width + hidden[-1], ())

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """A batch of :class:`trackrec.ctr.training.data.TensorLoader` -> logits (B,)."""
        x0 = flatten_fields(self.inputs(batch), batch)
        logits: Tensor = self.output(torch.cat([self.cross(x0), self.deep(x0).relu()], dim=-1)).squeeze(-1)
        return logits
