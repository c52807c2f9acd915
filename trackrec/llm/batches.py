"""Batches as a function of (seed, epoch, index), with a position that a checkpoint keeps."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

Example = TypeVar("Example")

_POOL = 16


class Blank(NamedTuple):
    """For a process for which a batch has no example left: one that another process has, to be counted as nothing."""

    batch: Any


class BatchLoader(Generic[Example]):
    """Batches of examples of like length, in an order that depends on the seed and the epoch alone.

    Lightning saves `state_dict` with a checkpoint and restores it, so that a run that was cut off goes on with the
    batch it would have seen next.

    Args:
        examples: all examples, in a fixed order.
        lengths: their sizes in tokens; examples of like size share a batch (within pools of 16 batches).
        batch_size: examples per batch and process; the last batch may be smaller.
        collate: turns examples into what the module's step takes.
        seed: of the order.
        shuffle: False keeps the given order and makes batches of neighbours.
        rank: this process's number.
        processes: how many share each batch. Together they see what one process would with ``batch_size`` times as
            many.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        lengths: Sequence[int],
        batch_size: int,
        collate: Callable[[list[Example]], Any],
        seed: int,
        shuffle: bool = True,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"data.batch_size must be at least 1, got {batch_size}.")
        self.examples, self.lengths, self.collate = examples, lengths, collate
        self.batch_size, self.seed, self.shuffle = batch_size * processes, seed, shuffle
        self.rank, self.processes = rank, processes
        self._epoch, self._next = 0, 0

    def __len__(self) -> int:
        return -(-len(self.examples) // self.batch_size)

    def plan(self, epoch: int) -> list[list[int]]:
        """Which examples are in which batch of an epoch, all processes together."""
        order = list(range(len(self.examples)))
        size = self.batch_size
        if not self.shuffle:
            return [order[start : start + size] for start in range(0, len(order), size)]
        rng = random.Random(f"{self.seed}/{epoch}")
        rng.shuffle(order)
        batches: list[list[int]] = []
        for start in range(0, len(order), size * _POOL):
            pool = sorted(order[start : start + size * _POOL], key=lambda index: self.lengths[index])
            batches.extend(pool[place : place + size] for place in range(0, len(pool), size))
        rng.shuffle(batches)
        return batches

    def __iter__(self) -> Iterator[Any]:
        batches = self.plan(self._epoch)
        for index in range(self._next, len(batches)):
            # Moved on before the batch is handed out: Lightning doesn't ask past the last batch of an epoch.
            last = index + 1 == len(batches)
            self._epoch, self._next = (self._epoch + 1, 0) if last else (self._epoch, index + 1)
            own = batches[index][self.rank :: self.processes]
            made = self.collate([self.examples[example] for example in own or batches[index][:1]])
            yield made if own else Blank(made)

    def state_dict(self) -> dict[str, int]:
        """Where the next batch comes from."""
        return {"epoch": self._epoch, "next": self._next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at a saved place."""
        self._epoch, self._next = int(state["epoch"]), int(state["next"])
