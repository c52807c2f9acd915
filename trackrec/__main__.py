"""The ``trackrec`` command."""

from __future__ import annotations

import os
import sys

from trackrec.runtime.lightning_import import import_lightning
from trackrec.runtime.parent import PARENT, exit_with_parent

_LIGHT = ("store", "serve")  # trackrec.cli.light.COMMANDS, which start without torch


def main(args: list[str] | None = None) -> None:
    """Run the command line."""
    if sys.argv[1:] == ["--version"]:
        from trackrec import __version__

        sys.stdout.write(f"trackrec {__version__}\n")
        return
    if parent := os.environ.pop(PARENT, ""):
        exit_with_parent(int(parent))
    words = sys.argv[1:] if args is None else args
    if words and words[0] in _LIGHT:
        from trackrec.cli.light import run_light

        run_light(words[0], words[1:])
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import_lightning()
    from trackrec.cli.app import run_cli

    run_cli(args)


if __name__ == "__main__":
    main()
