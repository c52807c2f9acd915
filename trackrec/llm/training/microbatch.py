"""A training step computed in micro-batches, with the gradient of the whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class StepSums(NamedTuple):
    """Sums over a batch or micro-batch for a training step, so that micro-batches add up to the batch.

    Attributes:
        loss: summed over the units, with its autograd graph.
        units: the texts, sets or questions over which the loss is a mean.
        means: logged means as (sum, count).
        totals: logged sums.
    """

    loss: Tensor
    units: int
    means: dict[str, tuple[float, float]]
    totals: dict[str, float]


class StepGradients(NamedTuple):
    """`StepSums` without the graph, and the gradients of the summed loss."""

    sums: StepSums
    gradients: list[Tensor | None]


def differentiate(sums: StepSums, parameters: Sequence[nn.Parameter], scale: float) -> StepGradients:
    """Compute the gradient and drop the graph.

    Args:
        sums: sums of a micro-batch.
        parameters: the trainable parameters.
        scale: a power of two by which the loss is multiplied for the backward pass and the gradients are divided
            afterwards, so that float16 can represent small gradients.
    """
    with torch.autocast(sums.loss.device.type, enabled=False):
        scaled = torch.autograd.grad(sums.loss * scale, list(parameters), allow_unused=True)
    gradients: list[Tensor | None] = [None if gradient is None else gradient / scale for gradient in scaled]
    return StepGradients(sums._replace(loss=sums.loss.detach()), gradients)


def sum_up(pieces: Sequence[StepSums]) -> StepSums:
    """The sums of the whole, from those of its micro-batches or batches."""
    means = {
        name: (sum(piece.means[name][0] for piece in pieces), sum(piece.means[name][1] for piece in pieces))
        for name in pieces[0].means
    }
    totals = {name: sum(piece.totals[name] for piece in pieces) for name in pieces[0].totals}
    loss = torch.stack([piece.loss for piece in pieces]).sum()
    return StepSums(loss, sum(piece.units for piece in pieces), means, totals)


def add_up(pieces: Sequence[StepGradients]) -> StepGradients:
    """Add micro-batches up to the step of the whole batch."""
    per_parameter = zip(*(piece.gradients for piece in pieces), strict=True)
    return StepGradients(sum_up([piece.sums for piece in pieces]), [_sum(gradients) for gradients in per_parameter])


def empty_share_of(step: StepGradients) -> StepGradients:
    """The step of a process whose batch is an `EmptyShare`: the same names, with zeros."""
    means = dict.fromkeys(step.sums.means, (0.0, 0.0))
    totals = dict.fromkeys(step.sums.totals, 0.0)
    sums = StepSums(torch.zeros_like(step.sums.loss), 0, means, totals)
    return StepGradients(sums, [None if grad is None else torch.zeros_like(grad) for grad in step.gradients])


def _sum(gradients: Sequence[Tensor | None]) -> Tensor | None:
    present = [gradient for gradient in gradients if gradient is not None]
    return torch.stack(present).sum(0) if len(present) > 1 else present[0] if present else None


class GivenGradients(torch.autograd.Function):
    """A loss whose gradients are already computed: backward returns them, multiplied by the incoming gradient."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Sequence[Tensor | None], *_: nn.Parameter) -> Tensor:
        """The loss; the parameters are arguments so that backward can pass gradients to them."""
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """The precomputed gradients of the parameters, times ``upstream``."""
        return None, None, *(None if gradient is None else gradient * upstream for gradient in ctx.gradients)
