"""Keeps freed memory in the process while a small net trains."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_SET_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
_MIB = 1 << 20


@contextmanager
def keep_freed_memory(free: int = 256 * _MIB) -> Iterator[bool]:
    """Let glibc keep up to ``free`` bytes of free memory at the heap's end; yields whether that was set.

    A step of ten milliseconds allocates and frees a few megabytes. By default glibc returns them to the system and
    requests them again, hundreds of page faults a step: a fifth of DIN's time (docs/benchmarks.md). Afterwards the
    limits are those that glibc itself would have grown to. Nothing is done on other systems, or where the environment
    sets them (``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_``, ``GLIBC_TUNABLES``).
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _SET_BY_USER):
        yield False
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_THRESHOLD, 32 * _MIB)
    libc.mallopt(_TRIM_THRESHOLD, free)
    try:
        yield True
    finally:
        libc.mallopt(_TRIM_THRESHOLD, 64 * _MIB)
        libc.malloc_trim(0)
