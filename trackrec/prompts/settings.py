"""The ``prompts`` section of a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trackrec.runtime.errors import SettingError


@dataclass(frozen=True)
class PromptSettings:
    """Words of the domain and what a prompt shows.

    Attributes:
        item: what one item is called.
        items: its plural.
        user: what a user is called.
        rated: what users do with the items of a history ("saw", "read").
        like: what V is asked about the next item ("click", "play").
        liked: the word after an item whose rating is above the threshold.
        disliked: the word after any other item.
        max_words: the length that G is asked to keep to.
        max_history: the newest items of a history that are shown.
        max_title_chars: longer titles are cut here.
        history_attributes: show the attributes (genres) of history items.
        history_counts: say above the list how many items of the whole history were liked, of how many.
        history_kinds: name above the list at most so many attributes that the whole history mostly likes, and as many
            that it mostly dislikes, with counts. A small language model reads such a line where it can't count.
        history_years: show the years of history items. Four digits are six tokens for many a tokenizer.
        target_attributes: show the attributes of the target item, whose year is always shown.
        user_attributes: show what the users table says of the user.
        order: of V's prompt. ``shared`` puts the RecCoT before the target, so that all targets of a user share a
            prefix; ``release`` puts it after the target, as TrackRec's public release does; ``prefill`` is ``shared``
            with the target at the head of V's own turn, right before the answer: a small language model then reads it
            with care, and no turn is closed and opened for each target.
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
        """How many of the last segments of V's prompt stand in V's own turn."""
        return int(self.order == "prefill")
