"""Peak memory of this process: of the GPU if torch uses one, of the machine otherwise."""

from __future__ import annotations

import logging
import resource
import sys
from pathlib import Path

log = logging.getLogger(__name__)


def reset_peak_memory() -> None:
    """Start measuring peak memory anew: of the process on Linux, and of the GPU if torch uses one."""
    clear = Path("/proc/self/clear_refs")
    try:
        clear.write_text("5")
    except OSError as error:
        log.debug("peak memory counts from the start of the process: %s", error)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> int:
    """Bytes of the process's peak resident set since `reset_peak_memory`; with a GPU, of its peak allocation."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
