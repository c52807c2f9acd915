"""Batches determined by (seed, epoch, index), with a position that checkpoints save."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from trackrec.llm.training.distributed import process_rank
from trackrec.runtime.errors import SettingError

Example = TypeVar("Example")

_POOL = 16  # batches per pool


class EmptyShare(NamedTuple):
    """A dummy batch with zero weight, for a DDP process that gets no example, so that every process takes the step."""

    batch: Any


def validation_loaders(
    examples: Sequence[Example], lengths: Sequence[int], batch_size: int, collate: Callable[[list[Example]], Any]
) -> list[BatchLoader[Example]]:
    """One loader of this process's shares, in the order of the examples; none where there are no examples."""
    if not examples:
        return []
    rank, size = process_rank()
    return [BatchLoader(examples, lengths, batch_size, collate, 0, shuffle=False, rank=rank, processes=size)]


class BatchLoader(Generic[Example]):
    """Batches of examples of similar length, in an order that depends only on the seed and the epoch.

    Lightning saves `state_dict` with a checkpoint and restores it, so that an interrupted run resumes with the next
    batch.

    Args:
        examples: all examples, in a fixed order.
        lengths: their sizes in tokens; examples of similar size share a batch (within pools of 16 batches).
        batch_size: examples per batch and process; the last batch may be smaller.
        collate: turns examples into the batch that the module's step takes.
        seed: seed of the order.
        shuffle: False keeps the order of ``examples``.
        rank: rank of this process.
        processes: number of processes that share each batch. Together they see the same batches as one process with
            ``batch_size`` times ``processes``.
        batch_tokens: replaces ``batch_size``: a batch holds as many examples as fit when all are padded to the longest
            one. Which examples share a batch is then the same in every epoch, so that all epochs have the same number
            of batches. An example longer than this is a batch by itself.
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
        self.batch_size = batch_size * processes
        self.seed, self.shuffle = seed, shuffle
        self.batch_tokens = None if batch_tokens is None else batch_tokens * processes
        self.rank, self.processes = rank, processes
        self._epoch, self._next = 0, 0

    def __len__(self) -> int:
        return len(self.plan(0)) if self.batch_tokens else -(-len(self.examples) // self.batch_size)

    def plan(self, epoch: int) -> list[list[int]]:
        """Indices of the examples in each batch of an epoch, over all processes."""
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
        """Consecutive parts of the order, each large enough for 16 batches."""
        if not self.batch_tokens:
            for start in range(0, len(order), self.batch_size * _POOL):
                yield order[start : start + self.batch_size * _POOL]
            return
        pool: list[int] = []
        pool_tokens = 0
        for index in order:
            if pool and pool_tokens + self.lengths[index] > self.batch_tokens * _POOL:
                yield pool
                pool, pool_tokens = [], 0
            pool.append(index)
            pool_tokens += self.lengths[index]
        if pool:
            yield pool

    def _cut(self, order: list[int]) -> list[list[int]]:
        """Cut the order into batches."""
        if not self.batch_tokens:
            return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
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
            # Advance before yielding: Lightning doesn't ask for another batch after the last one of an epoch.
            last = index + 1 == len(batches)
            self._epoch, self._next = (self._epoch + 1, 0) if last else (self._epoch, index + 1)
            share = batches[index][self.rank :: self.processes]
            batch = self.collate([self.examples[example] for example in share or batches[index][:1]])
            yield batch if share else EmptyShare(batch)

    def state_dict(self) -> dict[str, int]:
        """Position of the next batch."""
        return {"epoch": self._epoch, "next": self._next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at a saved position."""
        self._epoch, self._next = int(state["epoch"]), int(state["next"])
