"""The prompts of a run: its histories, items and users in the words of its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trackrec.prompts.book import PromptBook
from trackrec.recipe.names import DATA
from trackrec.recipe.tables import like_threshold

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment


def prompt_book(exp: Experiment) -> PromptBook:
    """Histories, items and users for the prompts, read once."""

    def read() -> PromptBook:
        histories, items, users = (exp.table(DATA, name) for name in ("histories", "items", "users"))
        return PromptBook(histories, items, users, like_threshold(exp), exp.prompts)

    return exp.once("book", read)
