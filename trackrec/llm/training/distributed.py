"""What the processes of one training tell each other; one process tells itself."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import distributed

from trackrec.llm.training.microbatch import StepSums


class ProcessRank(NamedTuple):
    """This process's number, and how many there are."""

    rank: int
    size: int


def process_rank() -> ProcessRank:
    """Of the training that this process takes part in; alone, (0, 1)."""
    if distributed.is_available() and distributed.is_initialized():
        return ProcessRank(distributed.get_rank(), distributed.get_world_size())
    return ProcessRank(0, 1)


def all_gather(value: Any) -> list[Any]:
    """Every process's value, in the order of their numbers."""
    size = process_rank().size
    if size == 1:
        return [value]
    values: list[Any] = [None] * size
    distributed.all_gather_object(values, value)
    return values


def sum_over_processes(sums: StepSums) -> StepSums:
    """The sums of all processes' shares of a batch, so that its loss and its values are those of the whole batch."""
    if process_rank().size == 1:
        return sums
    flat = [float(sums.loss), float(sums.units)]
    flat += [number for pair in sums.means.values() for number in pair] + list(sums.totals.values())
    vector = torch.tensor(flat, dtype=torch.float64, device=sums.loss.device)
    distributed.all_reduce(vector)
    loss, units, *rest = vector.tolist()
    pairs = {name: (rest[2 * place], rest[2 * place + 1]) for place, name in enumerate(sums.means)}
    totals = dict(zip(sums.totals, rest[2 * len(pairs) :], strict=True))
    return StepSums(sums.loss.new_tensor(loss), round(units), pairs, totals)
