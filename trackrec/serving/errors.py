"""What a caller of a bundle can mend."""

from __future__ import annotations

from collections.abc import Sequence

from trackrec.runtime.errors import TrackRecError


class BundleError(TrackRecError, ValueError):
    """A bundle is missing, incomplete, damaged, or of another format."""


class UnknownItemError(TrackRecError, ValueError):
    """A request names items that the catalogue doesn't hold, or none at all.

    Attributes:
        items: those that aren't known.
    """

    def __init__(self, items: Sequence[str]) -> None:
        self.items = list(items)
        first = f"{len(self.items)} items are not in the catalogue, the first is {self.items[0]!r}" if items else ""
        super().__init__(first or "a request needs at least one item")
