"""Errors that a user can fix.

Any other error is a bug in trackrec and keeps its traceback.
"""

from __future__ import annotations


class TrackRecError(Exception):
    """An error that the user can fix.

    Its message names the key or the file, the value, what is allowed and what to do. Subclasses have a fitting built-in
    error as their second base, so that ``except ValueError`` keeps working.
    """

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else type(self).__name__


class SettingError(TrackRecError, ValueError):
    """A value of the configuration or of the command line is wrong, or doesn't fit the others or the data."""


class MissingFileError(TrackRecError, FileNotFoundError):
    """A file or folder that a setting names isn't there."""


class DivergedError(TrackRecError, FloatingPointError):
    """A training or a model gave numbers that are not finite; the message names the setting to change."""


def reason(error: BaseException) -> str:
    """The first line of an error's text that isn't blank; the name of its class if there is none."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)
