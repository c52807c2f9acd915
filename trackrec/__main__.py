"""The ``trackrec`` command."""

from __future__ import annotations

import os
import sys


def import_lightning() -> None:
    """Import Lightning without what no stage uses, so that ``--help`` and errors come in seconds.

    torchmetrics imports transformers for its text metrics and scipy.signal for its audio metrics whenever they are
    installed: four seconds before the first line. While it is imported, its question whether they are there is
    answered with no.
    """
    from lightning_utilities.core.imports import RequirementCache

    available = RequirementCache.__bool__

    def classification_only(self: RequirementCache) -> bool:
        return not (self.requirement or "").startswith(("transformers", "scipy")) and available(self)

    RequirementCache.__bool__ = classification_only  # type: ignore[method-assign]
    try:
        import torchmetrics  # noqa: F401
    finally:
        RequirementCache.__bool__ = available  # type: ignore[method-assign]


def main(args: list[str] | None = None) -> None:
    """Run the command line."""
    if sys.argv[1:] == ["--version"]:
        from trackrec import __version__

        sys.stdout.write(f"trackrec {__version__}\n")
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import_lightning()
    from trackrec.cli import run_cli

    run_cli(args)


if __name__ == "__main__":
    main()
