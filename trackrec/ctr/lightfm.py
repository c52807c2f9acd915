"""LightFM (Kula, 2015, arXiv 1507.08439): factorisation of user and item features.

Shapes: B batch, D dim.
"""

from __future__ import annotations

from torch import Tensor, nn

from trackrec.ctr.blocks import ItemEmbedding, index_embedding, masked_mean
from trackrec.ctr.connector import connector_width
from trackrec.ctr.features import FeatureSpec
from trackrec.ctr.priors import PADDING


class LightFM(nn.Module):
    """logit = q_u · p_i + b_u + b_i + <w, dense>, eq. 1 of the paper; q and p are sums of their features' vectors.

    User features: id, attributes, the rated recent items (their mean) and the text through the connector. Item
    features: id and attributes. The term in dense features is added here: they belong to user and item together.

    Args:
        spec: sizes of the features.
        connector: takes ``batch["text"]``; None where there is no text.
        embed_dim: D.
        dropout: on the user's vector.
    """

    def __init__(
        self, spec: FeatureSpec, connector: nn.Module | None = None, embed_dim: int = 16, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.users = index_embedding(spec.n_users, embed_dim)
        self.items = ItemEmbedding(spec, embed_dim)
        self.traits = index_embedding(spec.n_user_attributes, embed_dim) if spec.n_user_attributes else None
        self.connector = connector
        self.text = nn.Linear(connector_width(connector), embed_dim) if connector is not None else None
        self.user_bias = index_embedding(spec.n_users, 1)
        self.item_bias = index_embedding(spec.n_items, 1)
        self.dense = nn.Linear(spec.n_dense, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """A batch of :class:`trackrec.ctr.data.TensorLoader` -> logits (B,)."""
        q = self.users(batch["user"]) + masked_mean(self.items.recent(batch), batch["recent_mask"])
        if self.traits is not None:
            traits = batch["user_attributes"]
            q = q + masked_mean(self.traits(traits), traits != PADDING)
        if self.connector is not None and self.text is not None:
            q = q + self.text(self.connector(batch["text"]))
        p = self.items.target(batch)
        bias = self.user_bias(batch["user"]) + self.item_bias(batch["item"]) + self.dense(batch["dense"])
        return (self.dropout(q) * p).sum(dim=-1) + bias.squeeze(-1)
