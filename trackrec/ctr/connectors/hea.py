"""KAR's hybrid-expert adaptor (Xi et al., RecSys 2024, arXiv 2306.10933).

Shapes: B batch, E out_dim, X experts that one kind of text uses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trackrec.ctr.nets.blocks import MLP
from trackrec.runtime.errors import SettingError


class HEAConnector(nn.Module):
    """r̂_k = Σ_{e shared} α_ke e(r_k) + Σ_{e of kind k} α_ke e(r_k), α_k = softmax(W_k r_k), and r̂ = [r̂_1 ; … ; r̂_n].

    Section 3.3 of the paper: every kind of text has its own experts and its own gate, and all kinds share some experts.
    The text vector is the kinds' vectors end to end, as in the arm ``reccot+prompt`` (semantics and history). With one
    kind it is a mixture of experts.

    Args:
        text_dim: width of all kinds together.
        out_dim: E of one kind; the net gets one such vector per kind.
        hidden: hidden widths of an expert.
        shared: experts that serve every kind.
        dedicated: experts of each kind.
        kind_dim: width of one kind's vector; null: the whole vector is one kind.
        dropout: on the hidden layers.

    Raises:
        SettingError: the kinds don't fill the vector, or there is no expert.
    """

    def __init__(
        self,
        text_dim: int,
        out_dim: int = 32,
        hidden: Sequence[int] = (128,),
        shared: int = 2,
        dedicated: int = 2,
        kind_dim: int | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.kind_dim = kind_dim or text_dim
        if text_dim % self.kind_dim:
            raise SettingError(
                f"ctr.connector: HEAConnector's kind_dim must divide the text width {text_dim}, got {kind_dim}."
            )
        if shared + dedicated < 1:
            raise SettingError("ctr.connector: HEAConnector needs an expert, got shared 0 and dedicated 0.")
        self.n_kinds = text_dim // self.kind_dim
        self.n_shared = shared
        self.out_dim = self.n_kinds * out_dim
        self.norm = nn.LayerNorm(self.kind_dim, elementwise_affine=False)

        def experts(n: int) -> nn.ModuleList:
            return nn.ModuleList(MLP(self.kind_dim, hidden, out_dim, dropout) for _ in range(n))

        self.shared = experts(shared)
        self.dedicated = nn.ModuleList(experts(dedicated) for _ in range(self.n_kinds))
        self.gates = nn.ModuleList(nn.Linear(self.kind_dim, shared + dedicated) for _ in range(self.n_kinds))

    def forward(self, text: Tensor) -> Tensor:
        """(B, text_dim) -> (B, kinds * E)."""
        adapted = []
        for kind, x in enumerate(self._kinds(text)):
            dedicated = self.dedicated[kind]
            assert isinstance(dedicated, nn.ModuleList)
            outputs = torch.stack([expert(x) for expert in (*self.shared, *dedicated)], dim=1)  # (B, X, E)
            weights = self.gates[kind](x).softmax(dim=-1)
            adapted.append((weights.unsqueeze(-1) * outputs).sum(dim=1))
        return torch.cat(adapted, dim=-1)

    def facts(self, text: Tensor) -> dict[str, float]:
        """``gate_shared``, the mean weight of the shared experts over texts (n_texts, text_dim) and kinds."""
        weights = [self.gates[kind](x).softmax(dim=-1) for kind, x in enumerate(self._kinds(text))]
        return {"gate_shared": torch.stack(weights)[..., : self.n_shared].sum(dim=-1).mean().item()}

    def _kinds(self, text: Tensor) -> list[Tensor]:
        return [self.norm(part) for part in text.split(self.kind_dim, dim=-1)]
