"""Commands that read no configuration of an experiment; they start without torch."""

from __future__ import annotations

from typing import Any, Protocol


class PlainCall(Protocol):
    """One call of such a command; `trackrec.commands.call.Call` is one too."""

    @property
    def own(self) -> dict[str, Any]:
        """The command's arguments."""

    def say(self, text: str) -> None:
        """Print one line."""
