"""What a stage ran with, for its manifest."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

_PACKAGES = ("torch", "lightning", "transformers", "peft", "bitsandbytes", "torchmetrics", "datasets", "numpy")


def versions() -> dict[str, str]:
    """Python, this package, and those that decide its numbers."""
    found = {"python": platform.python_version()}
    for name in ("trackrec", *_PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def threads() -> int:
    """Threads of torch; 1 where nothing has imported it."""
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch is not None else 1
