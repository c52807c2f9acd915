"""Packages that only some settings need."""

from __future__ import annotations

import importlib.util

from trackrec.runtime.errors import TrackRecError


class MissingPackageError(TrackRecError, ImportError):
    """A package that a setting needs isn't installed; the message names the setting and the package to install.

    Any other ImportError is a fault of the installation or a bug in trackrec, and keeps its traceback.
    """


def need(who: str, extra: str, *packages: str) -> None:
    """Check that the packages of an extra are installed.

    Args:
        who: the setting that needs them, as typed.
        extra: name of the extra in pyproject.toml.
        packages: import names.

    Raises:
        MissingPackageError: one isn't.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingPackageError(f"{who} needs {', '.join(missing)}: pip install 'trackrec[{extra}]'")
