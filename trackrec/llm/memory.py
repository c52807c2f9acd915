"""Batches that don't fit into memory are computed in halves: one mechanism for sampling, scoring and training."""

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

# How torch's CPU allocator, oneDNN and CUDA libraries say it where they raise a plain RuntimeError.
_SIGNS = ("can't allocate memory", "out of memory", "could not allocate", "bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED")


class MemoryLimitError(TrackRecError, RuntimeError):
    """The smallest piece of work doesn't fit into memory; the message names the key to lower."""


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory, of the GPU or of the machine, is full."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def halve_list(items: Sequence[Result]) -> tuple[Sequence[Result], Sequence[Result]] | None:
    """The two halves of a list; None where it has one entry."""
    middle = len(items) // 2
    return (items[:middle], items[middle:]) if middle else None


class FittingBatches(Generic[Batch]):
    """Computes batches, in pieces where the whole doesn't fit into memory.

    What failed once isn't tried again: later batches of that size are halved first. One line says so.

    Args:
        what: the work, as the messages call it.
        then: what the message about pieces ends with.
        oom_hint: what helps where even the smallest piece doesn't fit.
        size: tokens that a batch takes, padding included.
        halve: two pieces of a batch in order, or None for the smallest.
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
        """``compute`` of the batch, or of its pieces in order.

        Raises:
            MemoryLimitError: the smallest piece doesn't fit.
        """
        before, todo, done = self.limit, [batch], []
        reason = ""
        while todo:
            piece = todo.pop()
            halves = self.halve(piece) if self.limit is not None and self.size(piece) > self.limit else None
            if halves is None:
                full, result = _try(compute, piece)
                if not full:
                    done.extend(result)
                    continue
                # Here, where no traceback holds the tensors any more.
                release()
                halves, reason = self.halve(piece), full
                if halves is None:
                    raise MemoryLimitError(
                        f"{self.what}: {self.size(piece):,} tokens that can't be divided don't fit into memory "
                        f"({full}). {self.oom_hint}"
                    )
                self.limit = max(1, self.size(piece) // 2)
            todo.extend(reversed(halves))
        if self.limit != before:
            log.warning(
                "%s: a batch of %s tokens doesn't fit into memory (%s). It is computed in pieces of at most %s, and so "
                "are later ones. %s",
                *(self.what, f"{self.size(batch):,}", reason, f"{self.limit:,}", self.then),
            )
        return done


def _try(compute: Callable[[Batch], Result], piece: Batch) -> tuple[str, list[Result]]:
    """The result in a list, or how the memory said that it is full."""
    try:
        return "", [compute(piece)]
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        return " ".join(str(error).split())[:160] or type(error).__name__, []


def release() -> None:
    """Give back the memory of what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
