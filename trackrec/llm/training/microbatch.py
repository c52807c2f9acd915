"""A training step whose batch may be computed in pieces, with the gradient of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class StepSums(NamedTuple):
    """What a batch, or a piece of one, adds to a training step: sums, so that pieces add up to the whole.

    Attributes:
        loss: summed over the units, with its graph.
        units: the texts, sets or questions over which the loss is a mean.
        means: logged values as (sum, number of things it is a mean of).
        totals: logged values that are sums themselves.
    """

    loss: Tensor
    units: int
    means: dict[str, tuple[float, float]]
    totals: dict[str, float]


class StepGradients(NamedTuple):
    """`StepSums` without the graph, and the gradient of the summed loss instead."""

    sums: StepSums
    gradients: list[Tensor | None]


def differentiate(sums: StepSums, parameters: Sequence[nn.Parameter], scale: float) -> StepGradients:
    """Compute the gradient and drop the graph.

    Args:
        sums: of a piece.
        parameters: what trains.
        scale: a power of two by which the loss is multiplied on the way, so that float16 holds small gradients.
    """
    with torch.autocast(sums.loss.device.type, enabled=False):
        found = torch.autograd.grad(sums.loss * scale, list(parameters), allow_unused=True)
    gradients: list[Tensor | None] = [None if gradient is None else gradient / scale for gradient in found]
    return StepGradients(sums._replace(loss=sums.loss.detach()), gradients)


def add_up(pieces: Sequence[StepGradients]) -> StepGradients:
    """The step of the whole batch."""
    sums = [piece.sums for piece in pieces]
    means = {
        name: (sum(one.means[name][0] for one in sums), sum(one.means[name][1] for one in sums))
        for name in sums[0].means
    }
    totals = {name: sum(one.totals[name] for one in sums) for name in sums[0].totals}
    whole = StepSums(torch.stack([one.loss for one in sums]).sum(), sum(one.units for one in sums), means, totals)
    columns = zip(*(piece.gradients for piece in pieces), strict=True)
    return StepGradients(whole, [_sum(column) for column in columns])


def empty_share_of(step: StepGradients) -> StepGradients:
    """The share of a process for which a batch had no example left: the same names, and zeros."""
    means = dict.fromkeys(step.sums.means, (0.0, 0.0))
    totals = dict.fromkeys(step.sums.totals, 0.0)
    sums = StepSums(torch.zeros_like(step.sums.loss), 0, means, totals)
    return StepGradients(sums, [None if one is None else torch.zeros_like(one) for one in step.gradients])


def _sum(gradients: Sequence[Tensor | None]) -> Tensor | None:
    there = [gradient for gradient in gradients if gradient is not None]
    return torch.stack(there).sum(0) if len(there) > 1 else there[0] if there else None


class GivenGradients(torch.autograd.Function):
    """A loss whose gradients are known already: a trainer's backward pass hands them out, scaled as it likes."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Sequence[Tensor | None], *_: nn.Parameter) -> Tensor:
        """The loss; the parameters are named so that the gradients reach them."""
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients, once."""
        return None, None, *(None if one is None else one * above for one in ctx.gradients)
