"""Splits batches that don't fit into memory into halves, for sampling, scoring and training alike."""

from __future__ import annotations

import errno
import gc
import logging
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch

from trackrec.runtime.errors import TrackRecError

log = logging.getLogger(__name__)

Batch = TypeVar("Batch")
Result = TypeVar("Result")

# Out-of-memory messages of torch's CPU allocator, oneDNN and CUDA libraries, which raise a plain RuntimeError.
_MESSAGES = ("can't allocate memory", "out of memory", "could not allocate", "bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED")


class MemoryLimitError(TrackRecError, RuntimeError):
    """The smallest possible batch doesn't fit into memory; the message names the key to lower."""


def ran_out(error: BaseException) -> bool:
    """Whether an error means out of memory, on the GPU or on the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


def halve_list(items: Sequence[Result]) -> tuple[Sequence[Result], Sequence[Result]] | None:
    """The two halves of a list; None if it has fewer than two entries."""
    middle = len(items) // 2
    return (items[:middle], items[middle:]) if middle else None


class FittingBatches(Generic[Batch]):
    """Computes batches, split into pieces if the whole batch doesn't fit into memory.

    A size that failed once isn't tried again: later batches of that size are split first. A warning is logged once.

    Args:
        what: name of the work in messages.
        then: last sentence of the warning about pieces.
        oom_hint: last sentence of the error when even the smallest piece doesn't fit.
        size: tokens that a batch takes, padding included.
        halve: splits a batch into two pieces, in order; None if it can't be split.
    """

    def __init__(
        self,
        what: str,
        then: str,
        oom_hint: str,
        size: Callable[[Batch], int],
        halve: Callable[[Batch], tuple[Batch, Batch] | None],
    ) -> None:
        self.what, self.then, self.oom_hint, self.size, self.halve = what, then, oom_hint, size, halve
        self.limit: int | None = None  # tokens

    def run(self, batch: Batch, compute: Callable[[Batch], Result]) -> list[Result]:
        """Results of ``compute`` on the batch, or on its pieces in order.

        Raises:
            MemoryLimitError: the smallest piece doesn't fit.
        """
        limit_before = self.limit
        todo = [batch]
        done: list[Result] = []
        reason = ""
        while todo:
            piece = todo.pop()
            halves = self.halve(piece) if self.limit is not None and self.size(piece) > self.limit else None
            if halves is None:
                error, result = _try(compute, piece)
                if not error:
                    done.extend(result)
                    continue
                # Only here, because `_try` has dropped the traceback that kept the tensors alive.
                release()
                reason = error
                halves = self.halve(piece)
                if halves is None:
                    raise MemoryLimitError(
                        f"{self.what}: {self.size(piece):,} tokens that can't be divided don't fit into memory "
                        f"({error}). {self.oom_hint}"
                    )
                self.limit = max(1, self.size(piece) // 2)
            todo.extend(reversed(halves))
        if self.limit != limit_before:
            log.warning(
                "%s: a batch of %s tokens doesn't fit into memory (%s). It is computed in pieces of at most %s, and so "
                "are later ones. %s",
                self.what,
                f"{self.size(batch):,}",
                reason,
                f"{self.limit:,}",
                self.then,
            )
        return done


def _try(compute: Callable[[Batch], Result], piece: Batch) -> tuple[str, list[Result]]:
    """An empty error and the result in a list, or the out-of-memory message and an empty list."""
    try:
        return "", [compute(piece)]
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        return " ".join(str(error).split())[:160] or type(error).__name__, []


def release() -> None:
    """Free memory that is no longer referenced, including torch's cached GPU memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
