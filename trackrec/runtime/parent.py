"""Exit when the parent process dies, even by SIGKILL."""

from __future__ import annotations

import os
import threading
import time

PARENT = "TRACKREC_PARENT"
"""Environment variable with the id of the parent process: a ``trackrec`` command exits when that process dies."""
_POLL_S = 0.5


def exit_with_parent(parent: int) -> None:
    """Exit with status 1 when ``parent``, the process that started this one, has died; checked twice a second."""
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os._exit(1)
