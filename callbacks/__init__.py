"""Lightning callbacks that a config names by class_path. Nothing in trackrec imports this package."""

from .finite import StopOnNonFinite

__all__ = ["StopOnNonFinite"]
