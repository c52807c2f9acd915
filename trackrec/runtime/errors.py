"""What another package's error says, short enough to stand in ours."""

from __future__ import annotations


def reason(error: BaseException) -> str:
    """The first line of an error's text that isn't blank; its class where it has none."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)
