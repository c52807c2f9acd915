"""Prompts as a person reads them: without tokens and without a model's chat template."""

from __future__ import annotations

from trackrec.prompts.book import PromptBook


def validator_text(book: PromptBook, history_id: str, reccot: str, item_id: str) -> str:
    """The validator's (V's) prompt as one text, with what opens V's own turn below it."""
    segments = book.validator_prompt(history_id, reccot, item_id)
    end = len(segments) - book.settings.prefilled
    text = "".join(segments[:end])
    if own_turn := "".join(segments[end:]):
        text += f"\n\n(V's own turn begins with:)\n{own_turn}"
    return text
