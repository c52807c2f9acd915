"""The ``prompts`` section of a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trackrec.runtime.errors import SettingError


@dataclass(frozen=True)
class PromptSettings:
    """Words of the domain and what a prompt shows. The generator (G) writes RecCoTs, the validator (V) predicts likes.

    Attributes:
        item: what one item is called.
        items: its plural.
        user: what a user is called.
        rated: what users do with the items of a history ("saw", "read").
        like: what V is asked about the next item ("click", "play").
        liked: the word after an item whose rating is above the threshold.
        disliked: the word after any other item.
        max_words: the length limit that G's prompt states.
        max_history: how many of a history's newest items are shown.
        max_title_chars: longer titles are cut here.
        history_attributes: show the attributes (genres) of history items.
        history_counts: say above the list how many items the user rated in the whole history, and how many of them were
            liked; nothing where none has a rating.
        history_kinds: name above the list, with counts, at most this many attributes that are mostly liked in the whole
            history, and at most this many that are mostly disliked. A small language model can read such a line but
            can't count.
        history_years: show the years of history items. Many tokenizers need six tokens for four digits.
        target_attributes: show the attributes of the target item, whose year is always shown.
        user_attributes: show the user's attributes from the users table.
        order: of V's prompt. ``shared`` puts the RecCoT before the target, so that all targets of a user share a
            prefix; ``release`` puts it after the target, as TrackRec's public release does; ``prefill`` is ``shared``
            with the target at the start of V's turn, right before the answer: a small language model then uses it
            better, and turns needn't be closed and opened for each target.
    """

    item: str = "film"
    items: str = "films"
    user: str = "viewer"
    rated: str = "rated"
    like: str = "like"
    liked: str = "liked"
    disliked: str = "disliked"
    max_words: int = 200
    max_history: int = 30
    max_title_chars: int = 120
    history_attributes: bool = True
    history_years: bool = True
    history_counts: bool = False
    history_kinds: int = 0
    target_attributes: bool = True
    user_attributes: bool = False
    order: Literal["shared", "release", "prefill"] = "shared"

    def __post_init__(self) -> None:
        for key in ("max_words", "max_history", "max_title_chars"):
            if getattr(self, key) < 1:
                raise SettingError(f"prompts.{key} must be at least 1, got {getattr(self, key)}.")
        if self.history_kinds < 0:
            raise SettingError(f"prompts.history_kinds must not be negative, got {self.history_kinds}.")

    @property
    def prefilled(self) -> int:
        """How many of the last segments of V's prompt belong to V's turn."""
        return int(self.order == "prefill")
