"""Errors of stores and event logs."""

from __future__ import annotations

from trackrec.runtime.errors import TrackRecError


class StoreError(TrackRecError, ValueError):
    """A store or an event log is missing, damaged, of another format, or can't be written."""


class StoreAwayError(StoreError, ConnectionError):
    """A store can't be reached now; the same call may succeed later."""
