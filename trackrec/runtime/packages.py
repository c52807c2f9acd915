"""Packages that only some settings need."""

from __future__ import annotations

import importlib.util

from trackrec.runtime.errors import TrackRecError


class MissingPackageError(TrackRecError, ImportError):
    """A package that a setting needs isn't installed; the message says which setting, and what to install.

    Any other ImportError is a fault of the installation or of trackrec, and keeps its traceback.
    """


def need(who: str, extra: str, *packages: str) -> None:
    """Whether the packages of an extra are installed.

    Args:
        who: what needs them, as typed.
        extra: its name in pyproject.toml.
        packages: as they are imported.

    Raises:
        MissingPackageError: some aren't.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingPackageError(f"{who} needs {', '.join(missing)}: pip install 'trackrec[{extra}]'")
