"""Batches as a function of (seed, epoch, index), with a position that a checkpoint keeps."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from trackrec.runtime.errors import SettingError

Example = TypeVar("Example")

_POOL = 16


class EmptyShare(NamedTuple):
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
        batch_tokens: if given, a batch holds as many examples as fit, each counted as long as the longest of them, in
            place of ``batch_size``. Which examples share a batch is then the same in every epoch, so that all epochs
            have as many batches; a longer example is a batch of its own.
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
        batch_tokens: int | None = None,
    ) -> None:
        for key, value in (("batch_size", batch_size), ("batch_tokens", batch_tokens)):
            if value is not None and value < 1:
                raise SettingError(f"data.{key} must be at least 1, got {value}.")
        self.examples, self.lengths, self.collate = examples, lengths, collate
        self.batch_size, self.seed, self.shuffle = batch_size * processes, seed, shuffle
        self.batch_tokens = None if batch_tokens is None else batch_tokens * processes
        self.rank, self.processes = rank, processes
        self._epoch, self._next = 0, 0

    def __len__(self) -> int:
        return len(self.plan(0)) if self.batch_tokens else -(-len(self.examples) // self.batch_size)

    def plan(self, epoch: int) -> list[list[int]]:
        """Which examples are in which batch of an epoch, all processes together."""
        order = list(range(len(self.examples)))
        if not self.shuffle:
            return self._cut(order)
        rng = random.Random(f"{self.seed}/{epoch}")
        (random.Random(f"{self.seed}/0") if self.batch_tokens else rng).shuffle(order)
        batches: list[list[int]] = []
        for pool in self._pools(order):
            batches.extend(self._cut(sorted(pool, key=lambda index: self.lengths[index])))
        rng.shuffle(batches)
        return batches

    def _pools(self, order: list[int]) -> Iterator[list[int]]:
        """Neighbours in the order, enough for 16 batches each."""
        if not self.batch_tokens:
            for start in range(0, len(order), self.batch_size * _POOL):
                yield order[start : start + self.batch_size * _POOL]
            return
        pool: list[int] = []
        held = 0
        for index in order:
            if pool and held + self.lengths[index] > self.batch_tokens * _POOL:
                yield pool
                pool, held = [], 0
            pool.append(index)
            held += self.lengths[index]
        if pool:
            yield pool

    def _cut(self, order: list[int]) -> list[list[int]]:
        """Neighbours in the order as batches."""
        if not self.batch_tokens:
            return [order[place : place + self.batch_size] for place in range(0, len(order), self.batch_size)]
        batches: list[list[int]] = []
        longest = 0
        for index in order:
            longest = max(longest, self.lengths[index])
            if batches and (len(batches[-1]) + 1) * longest <= self.batch_tokens:
                batches[-1].append(index)
            else:
                batches.append([index])
                longest = self.lengths[index]
        return batches

    def __iter__(self) -> Iterator[Any]:
        batches = self.plan(self._epoch)
        for index in range(self._next, len(batches)):
            # Moved on before the batch is handed out: Lightning doesn't ask past the last batch of an epoch.
            last = index + 1 == len(batches)
            self._epoch, self._next = (self._epoch + 1, 0) if last else (self._epoch, index + 1)
            own = batches[index][self.rank :: self.processes]
            made = self.collate([self.examples[example] for example in own or batches[index][:1]])
            yield made if own else EmptyShare(made)

    def state_dict(self) -> dict[str, int]:
        """Where the next batch comes from."""
        return {"epoch": self._epoch, "next": self._next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at a saved place."""
        self._epoch, self._next = int(state["epoch"]), int(state["next"])
