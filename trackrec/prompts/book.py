"""Fills the prompt templates with the histories, items and users of a run."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace

import polars as pl

from trackrec.prompts.settings import PromptSettings
from trackrec.prompts.templates import Item, Rated, evidence, history_segment, reccot_segments, validator_segments


class PromptBook:
    """Looks up what prompts need: histories, items and users by id.

    Args:
        histories: the histories table.
        items: the items table.
        users: the users table.
        threshold: a rating above it is liked.
        settings: words and limits.

    Attributes:
        generator, validator: the settings with what each of the two reads of a history.
    """

    def __init__(
        self,
        histories: pl.DataFrame,
        items: pl.DataFrame,
        users: pl.DataFrame,
        threshold: float,
        settings: PromptSettings,
    ) -> None:
        self.settings, self._threshold = settings, threshold
        self.generator, self.validator = settings.for_generator(), settings.for_validator()
        self._items = {row[0]: Item(row[1], row[2] or (), row[3]) for row in items.iter_rows()}
        self._users = dict(users.select("user_id", "attributes").iter_rows())
        self._histories = {row[0]: row[1:] for row in histories.iter_rows()}
        self._read_by_validator: Callable[[str], str] | None = None

    def with_validator_history(self, segment: Callable[[str], str]) -> PromptBook:
        """A copy in which the validator's prompts begin with other segments; the generator's stay.

        Args:
            segment: the segment about a history, by its id.
        """
        book = copy(self)
        book._read_by_validator = segment
        return book

    def item(self, item_id: str) -> Item:
        """Title, attributes and year of an item."""
        return self._items[item_id]

    def history(self, history_id: str) -> list[Rated]:
        """The items of a history, oldest first; one without a rating was chosen, which is shown as a like."""
        _, item_ids, ratings = self._histories[history_id]
        return [
            Rated(self._items[item_id], rating is None or rating > self._threshold, rating is not None)
            for item_id, rating in zip(item_ids, ratings, strict=True)
        ]

    def is_empty(self, history_id: str) -> bool:
        """Whether the history has no item; the text about it is `trackrec.prompts.templates.NO_HISTORY`."""
        return not self._histories[history_id][1]

    def user_of(self, history_id: str) -> str:
        """The user whose history it is."""
        user_id: str = self._histories[history_id][0]
        return user_id

    def evidence(self, history_id: str) -> list[Rated]:
        """What the generator's prompt shows of a history; see `trackrec.prompts.templates.evidence`."""
        return evidence(self.history(history_id), self.generator)

    def history_text(self, history_id: str) -> str:
        """The segment with which the generator's prompt about this history begins."""
        return self.segment(history_id, self.generator)

    def validator_history(self, history_id: str) -> str:
        """The segment with which the validator's prompt about this history begins."""
        if self._read_by_validator is not None:
            return self._read_by_validator(history_id)
        return self.segment(history_id, self.validator)

    def hidden_history(self, history_id: str) -> str:
        """The segment with which the validator's prompt begins where it lists no history and counts nothing."""
        return self.segment(history_id, replace(self.validator, max_history=0, history_counts=False, history_kinds=0))

    def reccot_prompt(self, history_id: str) -> list[str]:
        """Segments of the prompt of the generator (G)."""
        return reccot_segments(self.history_text(history_id), self.generator)

    def validator_prompt(
        self, history_id: str, reccot: str | None, item_id: str, history: str | None = None
    ) -> list[str]:
        """Segments of the prompt of the validator (V); it begins with ``history``, or with what it shows as a rule."""
        begin = self.validator_history(history_id) if history is None else history
        return validator_segments(begin, reccot, self.item(item_id), self.validator)

    def segment(self, history_id: str, settings: PromptSettings) -> str:
        """The segment about a history as a prompt with some settings shows it."""
        about = self._users.get(self.user_of(history_id)) or ()
        return history_segment(self.history(history_id), settings, about)
