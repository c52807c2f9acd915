"""Connectors: from the text encoder's space to what a CTR net takes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from trackrec.ctr.nets.blocks import MLP


class MLPConnector(nn.Module):
    """The paper's connector (arXiv 2508.15388): an MLP on the text vector, normalised first.

    A LayerNorm without parameters puts every encoder's vectors on one scale. Without it MiniLM's unit vectors of 384
    numbers would be a twentieth as large as the net's other inputs.

    Args:
        text_dim: width of the text vector.
        out_dim: width handed to the net; nets read it as ``connector.out_dim``.
        hidden: hidden widths.
        dropout: on the hidden layers.
    """

    def __init__(self, text_dim: int, out_dim: int = 16, hidden: Sequence[int] = (64,), dropout: float = 0.1) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.norm = nn.LayerNorm(text_dim, elementwise_affine=False)
        self.mlp = MLP(text_dim, hidden, out_dim, dropout)

    def forward(self, text: Tensor) -> Tensor:
        """(B, text_dim) -> (B, out_dim)."""
        vector: Tensor = self.mlp(self.norm(text))
        return vector


def connector_width(connector: nn.Module | None) -> int:
    """``connector.out_dim``; 0 where there is no connector.

    Raises:
        TypeError: the connector has no ``out_dim`` of type int.
    """
    if connector is None:
        return 0
    width = getattr(connector, "out_dim", None)
    if not isinstance(width, int):
        raise TypeError(f"{type(connector).__name__} needs an attribute out_dim of type int, got {width!r}.")
    return width
