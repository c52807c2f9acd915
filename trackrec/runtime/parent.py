"""A process that ends when the one that started it is gone, however that one ended."""

from __future__ import annotations

import os
import threading
import time

PARENT = "TRACKREC_PARENT"
"""Environment variable that names the process with which a ``trackrec`` command ends."""
_POLL_S = 0.5


def exit_with_parent(parent: int) -> None:
    """End this process with status 1 once ``parent``, which started it, is gone; looks twice a second."""
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os._exit(1)
