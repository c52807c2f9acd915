"""The ``trackrec`` command."""

from __future__ import annotations

import os

from trackrec.cli.front import run_cli
from trackrec.runtime.parent import PARENT, exit_with_parent


def main(args: list[str] | None = None) -> None:
    """Run the command line."""
    if parent := os.environ.pop(PARENT, ""):
        exit_with_parent(int(parent))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    run_cli(args)


if __name__ == "__main__":
    main()
