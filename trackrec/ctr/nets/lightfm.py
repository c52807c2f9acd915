"""LightFM (Kula, 2015, arXiv 1507.08439): factorisation of user and item features.

Shapes: B batch, D dim.
"""

from __future__ import annotations

from torch import Tensor, nn

from trackrec.ctr.features.features import FeatureSpec
from trackrec.ctr.nets.blocks import Dropout, ItemEmbedding
from trackrec.ctr.nets.embedding import index_embedding, masked_mean
from trackrec.ctr.nets.inputs import LinearTerm, TextInput


class LightFM(nn.Module):
    """logit = q_u · p_i + b_u + b_i + <w, dense>, eq. 1 of the paper; q and p are sums of their features' vectors.

    User features: id, the rated recent items (their mean) and the text. Item features: id and attributes.
    The paper has no dense term. It is added because dense features describe user and item together.

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
        self.text = TextInput(spec, connector, embed_dim) if connector is not None else None
        self.text_vector = nn.Linear(self.text.width, embed_dim) if self.text is not None else None
        self.linear = LinearTerm(spec)
        self.dropout = Dropout(dropout)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """A batch of :class:`trackrec.ctr.training.data.TensorLoader` -> logits (B,)."""
        p, recent = self.items(batch)
        q = self.users(batch["user"]) + masked_mean(recent, batch["recent_mask"])
        if self.text is not None and self.text_vector is not None:
            q = q + self.text_vector(self.text(batch, p, recent))
        logits: Tensor = (self.dropout(q) * p).sum(dim=-1) + self.linear(batch)
        return logits
