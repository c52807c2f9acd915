"""Packages that only some settings need."""

from __future__ import annotations


class MissingPackageError(ImportError):
    """A package that a setting needs isn't installed; the message says which setting, and what to install.

    Any other ImportError is a fault of the installation or of trackrec, and keeps its traceback.
    """
