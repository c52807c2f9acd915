"""A worker process of `trackrec.engine.local`: ``python -m trackrec.engine.child PIPE PARENT_PID``."""

from __future__ import annotations

import os
import sys
from multiprocessing.connection import Connection

from trackrec.engine.engine import WorkerSpec, answer, make
from trackrec.runtime.parent import exit_with_parent


def main(fd: int, parent: int) -> None:
    """Make the worker, then one part after the other until the pipe is closed."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    exit_with_parent(parent)
    pipe = Connection(fd)
    body, kind, value = make(WorkerSpec(*pipe.recv()))
    pipe.send((kind, value))
    while body is not None:
        try:
            part = pipe.recv()
        except EOFError:
            break
        pipe.send(answer(body, part))
    # Not sys.exit: libraries may wait for threads of theirs.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
