"""Embedding tables and how they are read.

Shapes: B batch, A attributes, D dim, M indices.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trackrec.ctr.features.past import FIRST, PADDING

INIT_STD = 0.01
# A table of up to so many rows is read, and its gradient computed, faster by a matrix product than row by row.
SMALL_TABLE = 64


class IndexEmbedding(nn.Embedding):
    """An embedding table whose gradient takes a quarter of the time on a CPU (`RowLookup`).

    With ``sparse`` set, as `trackrec.ctr.training.module.CTRModule` does for large tables with ``lazy_rows``, the
    gradient holds only the rows that were read.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Embedding's name
        """(...) indices -> (..., D)."""
        weight = self.weight
        if self.sparse or weight.device.type != "cpu" or not torch.is_grad_enabled():
            return super().forward(input)
        rows: Tensor = RowLookup.apply(weight, input, self.padding_idx)  # type: ignore[no-untyped-call]
        return rows


class RowLookup(torch.autograd.Function):
    """`F.embedding` whose backward pass adds rows up by ``index_add_``.

    For 5,632 rows of 16 into a table of 1,684, ``embedding_dense_backward`` takes 280 µs and this 70.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, index: Tensor, padding: int | None) -> Tensor:
        """(N, D), (...) -> (..., D)."""
        flat = index.reshape(-1).long()  # with 32-bit indices index_add_ takes five times as long
        ctx.save_for_backward(flat)
        ctx.rows = len(weight)
        ctx.padding = padding
        return weight.index_select(0, flat).view(*index.shape, weight.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """(..., D) -> (N, D), 0 in the padding row."""
        (flat,) = ctx.saved_tensors
        summed = grad.new_zeros(ctx.rows, grad.shape[-1]).index_add_(0, flat, grad.reshape(len(flat), -1))
        if ctx.padding is not None:
            summed[ctx.padding] = 0.0
        return summed, None, None


def index_embedding(n: int, dim: int) -> IndexEmbedding:
    """Embedding with small normal rows; padding stays 0. "unknown" starts at 0, as no train row may contain it."""
    table = IndexEmbedding(n, dim, padding_idx=PADDING)
    with torch.no_grad():
        table.weight.normal_(std=INIT_STD)
        table.weight[:FIRST] = 0.0
    return table


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the second last dimension where ``mask`` is true: (..., K, D), (..., K) -> (..., D); 0 if nowhere."""
    weights = mask.to(values.dtype).unsqueeze(-1)
    return (values * weights).sum(dim=-2) / weights.sum(dim=-2).clamp(min=1.0)


def mean_embedding(table: nn.Embedding, index: Tensor) -> Tensor:
    """Mean vector of the indices that aren't padding, 0 if none: (..., A) -> (..., D). No (..., A, D) is built."""
    if torch.compiler.is_exporting():  # ONNX has no such operator: the exporter would write a loop over the rows
        return masked_mean(F.embedding(index, table.weight), index != PADDING)
    flat = index.flatten(0, -2)
    if table.num_embeddings <= SMALL_TABLE:
        mean = _shares(flat, table.num_embeddings, table.weight.dtype) @ table.weight
    else:
        mean = F.embedding_bag(flat, table.weight, mode="mean", padding_idx=PADDING)
    vectors: Tensor = mean.unflatten(0, index.shape[:-1])
    return vectors


def _shares(index: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """(M, A) indices -> (M, n): the share of each index among those of its row that aren't padding."""
    share = torch.empty(index.shape, dtype=dtype, device=index.device)
    torch.ne(index, PADDING, out=share)
    share /= share.sum(dim=1, keepdim=True).clamp_(min=1.0)
    return torch.zeros(len(index), n, dtype=dtype, device=index.device).scatter_add_(1, index.long(), share)
