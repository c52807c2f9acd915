"""Versions and threads that a stage ran with, for its manifest."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

_PACKAGES = ("torch", "lightning", "transformers", "peft", "bitsandbytes", "torchmetrics", "datasets", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python, of this package, and of the packages that determine its numbers."""
    by_name = {"python": platform.python_version()}
    for name in ("trackrec", *_PACKAGES):
        try:
            by_name[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            by_name[name] = "not installed"
    return by_name


def threads() -> int:
    """Threads of torch; 1 if it isn't imported."""
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch is not None else 1
