"""The input layers of the nets: a batch as vectors, with the text used as the spec says.

Shapes: B batch, H recent list, D dim, F fields, W side width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from trackrec.ctr.connectors.mlp import connector_width
from trackrec.ctr.features.features import FeatureSpec
from trackrec.ctr.nets.blocks import DINAttention, ItemEmbedding
from trackrec.ctr.nets.embedding import INIT_STD, index_embedding, masked_mean


class TextQuery(nn.Module):
    """The text as a query to history and target: [Σ_j a(h_j, q) h_j ; q * t], q a linear map of the text.

    a is DIN's activation unit with q instead of the target (Zhou et al. 2018, eq. 3). The text itself isn't passed on:
    with few users a net would memorise it, like a user id.

    Args:
        text_dim: width of the connector's output.
        dim: D of history and target.
        hidden: hidden widths of a.
    """

    def __init__(self, text_dim: int, dim: int, hidden: tuple[int, ...] = (32,)) -> None:
        super().__init__()
        self.query = nn.Linear(text_dim, dim)
        self.attention = DINAttention(dim, hidden)
        self.width = 2 * dim

    def forward(self, text: Tensor, target: Tensor, recent: Tensor, mask: Tensor) -> Tensor:
        """(B, text_dim), (B, D), (B, H, D), (B, H) bool -> (B, 2D)."""
        q = self.query(text)
        return torch.cat([self.attention(recent, q, mask), q * target], dim=-1)


class TextInput(nn.Module):
    """The text input of a net: the connector's output, or that output as a query (``spec.text_use``).

    Where a row lacks a text (``spec.text_gaps``), one learned vector replaces the connector's output.

    Args:
        spec: sizes, and how the text is used.
        connector: text vector to ``connector.out_dim`` numbers.
        embed_dim: D of history and target.
    """

    def __init__(self, spec: FeatureSpec, connector: nn.Module, embed_dim: int) -> None:
        super().__init__()
        width = connector_width(connector)
        self.connector = connector
        self.missing = nn.Parameter(INIT_STD * torch.randn(width)) if spec.text_gaps else None
        self.query = TextQuery(width, embed_dim) if spec.text_use == "query" else None
        self.width = width if self.query is None else self.query.width

    def forward(self, batch: dict[str, Tensor], target: Tensor, recent: Tensor) -> Tensor:
        """Reads ``text`` (B, text_dim) and, with gaps, ``text_mask`` (B,) bool -> (B, width)."""
        text: Tensor = self.connector(batch["text"])
        if self.missing is not None:
            text = torch.where(batch["text_mask"].unsqueeze(-1), text, self.missing)
        if self.query is None:
            return text
        attended: Tensor = self.query(text, target, recent, batch["recent_mask"])
        return attended


class Sequence(NamedTuple):
    """A batch for a net that reads the recent list item by item."""

    target: Tensor  # (B, D)
    recent: Tensor  # (B, H, D)
    side: Tensor  # (B, W): dense, text


class SequenceInputs(nn.Module):
    """Target, rated recent items, and the side input: dense features and text.

    Args:
        spec: sizes of the features.
        connector: takes ``batch["text"]``; None where there is no text.
        embed_dim: D.
    """

    def __init__(self, spec: FeatureSpec, connector: nn.Module | None, embed_dim: int) -> None:
        super().__init__()
        self.items = ItemEmbedding(spec, embed_dim)
        self.text = TextInput(spec, connector, embed_dim) if connector is not None else None
        self.side_width = spec.n_dense + (self.text.width if self.text is not None else 0)

    def forward(self, batch: dict[str, Tensor]) -> Sequence:
        """A batch of :class:`trackrec.ctr.training.data.TensorLoader`."""
        target, recent = self.items(batch)
        side = [batch["dense"]]
        if self.text is not None:
            side.append(self.text(batch, target, recent))
        return Sequence(target, recent, torch.cat(side, dim=-1))


class FieldInputs(nn.Module):
    """A batch as F vectors of one width: user id, item, recent list (mean of its rated items), dense, text.

    Dense features and the text become fields through a linear map each.

    Args:
        spec: sizes of the features.
        connector: takes ``batch["text"]``; None where there is no text.
        embed_dim: D.
    """

    def __init__(self, spec: FeatureSpec, connector: nn.Module | None, embed_dim: int) -> None:
        super().__init__()
        self.users = index_embedding(spec.n_users, embed_dim)
        self.items = ItemEmbedding(spec, embed_dim)
        self.dense = nn.Linear(spec.n_dense, embed_dim)
        self.text = TextInput(spec, connector, embed_dim) if connector is not None else None
        self.text_field = nn.Linear(self.text.width, embed_dim) if self.text is not None else None
        self.n_fields = 4 + (self.text is not None)
        self.flat_width = self.n_fields * embed_dim + spec.n_dense

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """A batch of :class:`trackrec.ctr.training.data.TensorLoader` -> (B, F, D)."""
        target, recent = self.items(batch)
        fields = [
            self.users(batch["user"]),
            target,
            masked_mean(recent, batch["recent_mask"]),
            self.dense(batch["dense"]),
        ]
        if self.text is not None and self.text_field is not None:
            fields.append(self.text_field(self.text(batch, target, recent)))
        return torch.stack(fields, dim=1)


def flatten_fields(fields: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """(B, F, D) and the dense features as they are -> (B, F * D + n_dense), the input of a deep part."""
    return torch.cat([fields.flatten(1), batch["dense"]], dim=-1)


class LinearTerm(nn.Module):
    """<w, x> over user id, item id and dense features, with a bias: the first-order part of an FM.

    Args:
        spec: sizes of the features.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()
        self.users = index_embedding(spec.n_users, 1)
        self.items = index_embedding(spec.n_items, 1)
        self.dense = nn.Linear(spec.n_dense, 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """A batch -> (B,)."""
        logits: Tensor = self.users(batch["user"]) + self.items(batch["item"]) + self.dense(batch["dense"])
        return logits.squeeze(-1)
