"""Loads a class of the package by its path, where an import would lead to all classes of the same kind."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def load_class(path: str) -> Any:
    """The class at a dotted path such as ``trackrec.callbacks.BestWeights``.

    `trackrec.pipeline.source_code` counts such a path as an import if it is written out as one string.
    """
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)
