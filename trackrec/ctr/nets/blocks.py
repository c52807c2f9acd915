"""Parts the CTR nets are built of.

Shapes: B batch, H recent list, A attributes, D dim, F fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trackrec.ctr.features.features import FeatureSpec
from trackrec.ctr.nets.embedding import INIT_STD, index_embedding, mean_embedding


def fm_pooling(fields: Tensor) -> Tensor:
    """Σ_{i<j} <v_i, v_j> = ½ Σ_d [(Σ_i v_id)² - Σ_i v_id²]: (B, F, D) -> (B,) (Rendle 2010, lemma 3.1)."""
    return 0.5 * (fields.sum(dim=1).square() - fields.square().sum(dim=1)).sum(dim=-1)


_LEVELS = 1 << 16  # values that a random number of a dropout mask can have


@torch.library.custom_op("trackrec::kept", mutates_args=())
def kept(x: Tensor, p: float) -> Tensor:
    """1 / (1 - p) where a value is kept, 0 where dropped; 16 random bits per value, p is rounded to 1/65,536."""
    dropped = round(p * _LEVELS)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)
    keep = torch.empty_like(x, requires_grad=False)
    torch.ge(bits, dropped - _LEVELS // 2, out=keep)  # a bool tensor in between takes seven times as long
    return keep.mul_(_LEVELS / (_LEVELS - dropped))


@kept.register_fake
def _(x: Tensor, p: float) -> Tensor:  # noqa: ARG001
    return torch.empty_like(x)


class Dropout(nn.Dropout):
    """Dropout that draws 16 random bits per value on a CPU, in a fifth of the time; p is rounded to 1/65,536."""

    def forward(self, x: Tensor) -> Tensor:
        """Values of any shape; the kept ones are scaled so that the expected value stays."""
        if not self.training or round(self.p * _LEVELS) in (0, _LEVELS) or x.device.type != "cpu":
            return super().forward(x)
        scaled: Tensor = x * kept(x.detach(), self.p)
        return scaled


class ReLU(nn.Module):
    """max(x, 0), in place; when compiled, its gradient is computed from the result.

    Inductor would keep a bool mask of x > 0 beside the result, and storing bools takes it 190 ns per 16 values on
    AVX-512 (torch 2.13): two fifths of DIN's step.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Values of any shape."""
        return _SignedReLU.apply(x) if torch.compiler.is_compiling() else F.relu_(x)  # type: ignore[no-untyped-call]


class _SignedReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clamp_min(0.0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        passed: Tensor = grad * y.sign()
        return passed


class MLP(nn.Module):
    """Linear, ReLU, dropout per hidden width, then a linear output.

    Args:
        in_dim: input width.
        hidden: hidden widths; empty gives one linear layer.
        out_dim: output width.
        dropout: after each hidden layer.
    """

    def __init__(self, in_dim: int, hidden: Sequence[int], out_dim: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(in_dim, width), ReLU(), Dropout(dropout)]
            in_dim = width
        self.layers = nn.Sequential(*layers, nn.Linear(in_dim, out_dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_dim) -> (..., out_dim)."""
        y: Tensor = self.layers(x)
        return y


class DINAttention(nn.Module):
    """Local activation unit: interest = Σ_j a(h_j, t) h_j over real positions (Zhou et al. 2018, eq. 3).

    a is an MLP over [h, t, h - t, h * t]. As in the paper the weights aren't normalised, so their sum keeps the
    intensity of the interest; ``softmax`` normalises them over the list. An empty list gives zeros either way.

    Args:
        dim: D of history and target.
        hidden: hidden widths of a.
        softmax: normalise the weights.
    """

    def __init__(self, dim: int, hidden: Sequence[int] = (64,), softmax: bool = False) -> None:
        super().__init__()
        self.unit = MLP(4 * dim, hidden)
        self.softmax = softmax

    def forward(self, history: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """(B, H, D), (B, D), (B, H) bool -> (B, D)."""
        scores: Tensor = self.unit.layers[1:](self._first_layer(history, target)).squeeze(-1)  # (B, H)
        if self.softmax:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=-1)
        weights = scores.masked_fill(~mask, 0.0)
        return (weights.unsqueeze(-1) * history).sum(dim=1)

    def _first_layer(self, history: Tensor, target: Tensor) -> Tensor:
        """W [h, t, h - t, h * t] + b, (B, H, width), without building the four vectors side by side.

        W_h h + W_t t + W_d (h - t) + W_p (h * t) = (W_h + W_d) h + W_p (h * t) + (W_t - W_d) t: the last term is
        computed once per row, not per position, and half of the products remain.
        """
        first = cast(nn.Linear, self.unit.layers[0])
        of_history, of_target, of_difference, of_product = first.weight.chunk(4, dim=1)
        pairs = torch.cat([history, history * target.unsqueeze(1)], dim=-1)
        per_row = F.linear(target, of_target - of_difference, first.bias)
        return F.linear(pairs, torch.cat([of_history + of_difference, of_product], dim=1)) + per_row.unsqueeze(1)


class ItemEmbedding(nn.Module):
    """An item is the sum of its id's vector and the mean of its attributes' vectors.

    A rated item adds a vector of its rating: a linear map of [r, 1(r > 0)], r = (rating - threshold) / scale, which
    tells liked from disliked on any rating scale.
    """

    def __init__(self, spec: FeatureSpec, dim: int) -> None:
        super().__init__()
        self.ids = index_embedding(spec.n_items, dim)
        self.attributes = index_embedding(spec.n_attributes, dim)
        self.rating = nn.Linear(2, dim)
        nn.init.normal_(self.rating.weight, std=INIT_STD)
        nn.init.zeros_(self.rating.bias)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The target items of a batch (B, D), and the rated items of its recent lists (B, H, D).

        All ids are looked up in one call, because each call makes a gradient of the whole table.
        """
        recent_items = batch["recent_items"]
        r = batch["recent_ratings"]
        ids = self.ids(torch.cat([batch["item"].unsqueeze(1), recent_items], dim=1))
        target, recent = ids.split([1, recent_items.shape[1]], dim=1)
        rating = self.rating(torch.stack([r, (r > 0).to(r.dtype)], dim=-1))
        return (
            target.squeeze(1) + mean_embedding(self.attributes, batch["item_attributes"]),
            recent + mean_embedding(self.attributes, batch["recent_attributes"]) + rating,
        )

    def unrated(self, batch: dict[str, Tensor]) -> Tensor:
        """The items of the recent lists without their ratings (B, H, D)."""
        ids: Tensor = self.ids(batch["recent_items"])
        return ids + mean_embedding(self.attributes, batch["recent_attributes"])
