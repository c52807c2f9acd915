"""Lightning's errors about trainer arguments, as errors that name the section of the configuration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from trackrec.runtime.errors import SettingError, TrackRecError, reason


@contextmanager
def trainer_arguments(section: str) -> Iterator[None]:
    """While a Trainer is built: whatever it rejects is a wrong argument.

    Args:
        section: dotted key of its arguments, such as ``align.trainer``.

    Raises:
        SettingError: naming the section.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    try:
        yield
    except TrackRecError:
        raise
    except (MisconfigurationException, ValueError, TypeError, ModuleNotFoundError) as error:
        raise SettingError(f"{section}: {reason(error)} `trackrec fit --help` lists its arguments.") from error


@contextmanager
def trainer_setup(section: str) -> Iterator[None]:
    """While a Trainer runs: some combinations of arguments are rejected only then.

    Args:
        section: dotted key of its arguments, such as ``align.trainer``.

    Raises:
        SettingError: naming the section.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    try:
        yield
    except MisconfigurationException as error:
        raise SettingError(f"{section}: {reason(error)}") from error
