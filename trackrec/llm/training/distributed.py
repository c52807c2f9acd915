"""Communication between the processes of one training; with one process nothing is sent."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import distributed

from trackrec.llm.training.microbatch import StepSums


class ProcessRank(NamedTuple):
    """Rank of this process, and the number of processes."""

    rank: int
    size: int


def process_rank() -> ProcessRank:
    """Rank and size of the training that this process belongs to; (0, 1) without DDP."""
    if distributed.is_available() and distributed.is_initialized():
        return ProcessRank(distributed.get_rank(), distributed.get_world_size())
    return ProcessRank(0, 1)


def all_gather(value: Any) -> list[Any]:
    """The values of all processes, in the order of their ranks."""
    size = process_rank().size
    if size == 1:
        return [value]
    values: list[Any] = [None] * size
    distributed.all_gather_object(values, value)
    return values


def sum_over_processes(sums: StepSums) -> StepSums:
    """Add up the sums of all processes, so that loss and logged values are those of the whole batch."""
    if process_rank().size == 1:
        return sums
    flat = [float(sums.loss), float(sums.units)]
    flat += [number for pair in sums.means.values() for number in pair] + list(sums.totals.values())
    vector = torch.tensor(flat, dtype=torch.float64, device=sums.loss.device)
    distributed.all_reduce(vector)
    loss, units, *rest = vector.tolist()
    pairs = {name: (rest[2 * index], rest[2 * index + 1]) for index, name in enumerate(sums.means)}
    totals = dict(zip(sums.totals, rest[2 * len(pairs) :], strict=True))
    return StepSums(sums.loss.new_tensor(loss), round(units), pairs, totals)
