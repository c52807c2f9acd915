"""DeepFM (Guo et al., IJCAI 2017, arXiv 1703.04247).

Shapes: B batch, H recent list, D dim, F fields.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trackrec.ctr.blocks import MLP, ItemEmbedding, fm_pooling, index_embedding, masked_mean
from trackrec.ctr.connector import connector_width
from trackrec.ctr.features import FeatureSpec
from trackrec.ctr.priors import PADDING


class DeepFM(nn.Module):
    """logit = <w, x> + Σ_{i<j} <v_i, v_j> + MLP([v_1 ; … ; v_F ; dense]), eq. 1-3 of the paper.

    Fields: user id, item (id and attributes), recent list (mean of its rated items), dense, user attributes, text.
    Dense features and the connector's output become fields through a linear map each.

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
        self.users = index_embedding(spec.n_users, embed_dim)
        self.items = ItemEmbedding(spec, embed_dim)
        self.traits = index_embedding(spec.n_user_attributes, embed_dim) if spec.n_user_attributes else None
        self.dense = nn.Linear(spec.n_dense, embed_dim)
        self.connector = connector
        self.text = nn.Linear(connector_width(connector), embed_dim) if connector is not None else None
        self.user_weight = index_embedding(spec.n_users, 1)
        self.item_weight = index_embedding(spec.n_items, 1)
        self.dense_weight = nn.Linear(spec.n_dense, 1)
        n_fields = 4 + (self.traits is not None) + (self.text is not None)
        self.mlp = MLP(n_fields * embed_dim + spec.n_dense, hidden, dropout=dropout)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """A batch of :class:`trackrec.ctr.data.TensorLoader` -> logits (B,)."""
        dense = batch["dense"]
        vectors = [
            self.users(batch["user"]),
            self.items.target(batch),
            masked_mean(self.items.recent(batch), batch["recent_mask"]),
            self.dense(dense),
        ]
        if self.traits is not None:
            traits = batch["user_attributes"]
            vectors.append(masked_mean(self.traits(traits), traits != PADDING))
        if self.connector is not None and self.text is not None:
            vectors.append(self.text(self.connector(batch["text"])))
        fields = torch.stack(vectors, dim=1)  # (B, F, D)
        linear = self.user_weight(batch["user"]) + self.item_weight(batch["item"]) + self.dense_weight(dense)
        deep = self.mlp(torch.cat([fields.flatten(1), dense], dim=-1))
        return linear.squeeze(-1) + fm_pooling(fields) + deep.squeeze(-1)
