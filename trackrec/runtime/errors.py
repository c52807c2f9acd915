"""Errors that a person can mend, and how other packages' errors are told in ours.

Whatever is not a `TrackRecError` is a fault of trackrec's: it keeps its traceback.
"""

from __future__ import annotations


class TrackRecError(Exception):
    """An error that the person who runs trackrec can mend.

    Its message names the key or the file, the value, what is allowed and what to do. Subclasses have the built-in error
    that fits as their second base, so that ``except ValueError`` keeps working.
    """

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else type(self).__name__


class SettingError(TrackRecError, ValueError):
    """A value of the configuration or of the command line is wrong, or doesn't fit the others or the data."""


class MissingFileError(TrackRecError, FileNotFoundError):
    """A file or folder that a setting names isn't there."""


class DivergedError(TrackRecError, FloatingPointError):
    """A training or a model gave numbers that are not finite; the message names what to lower."""


def reason(error: BaseException) -> str:
    """The first line of an error's text that isn't blank; its class where it has none."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)
