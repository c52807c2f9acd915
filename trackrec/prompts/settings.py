"""The ``prompts`` section of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from trackrec.runtime.errors import SettingError


@dataclass(frozen=True)
class ReaderSettings:
    """What one of the two readers of a history sees of it, where that differs from the keys of ``prompts``.

    Each key is the one of that name in `PromptSettings`; null is the value there.

    Attributes:
        max_history: how many of a history's newest items are shown. The validator (V) may see none: 0.
        history_counts: show how many items of the whole history were liked.
        history_kinds: most attributes that are named as mostly liked, and as mostly disliked.
        history_attributes: show the attributes of history items.
        history_years: show the years of history items.
    """

    max_history: int | None = None
    history_counts: bool | None = None
    history_kinds: int | None = None
    history_attributes: bool | None = None
    history_years: bool | None = None


@dataclass(frozen=True)
class PromptSettings:
    """Words of the domain and what a prompt shows. The generator (G) writes RecCoTs, the validator (V) predicts likes.

    G can read a long history and V a short one: a RecCoT is worth its price where it stands in for something that V
    doesn't read. What differs between the two stands under ``generator`` and ``validator``.

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
            prefix; ``release`` puts it after the target, as TrackRec's public release does, so that it stands
            nearest to the answer, with only the question in between; ``prefill`` is ``shared``
            with the target at the start of V's turn, right before the answer: a small language model then uses it
            better, and turns needn't be closed and opened for each target.
        generator: what the history looks like in G's prompt, where it differs from the keys above. Teachers, the check
            of what a text may claim, and the arm ``prompt`` of the CTR nets read this too.
        validator: what it looks like in V's prompt.
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
    generator: ReaderSettings = field(default_factory=ReaderSettings)
    validator: ReaderSettings = field(default_factory=ReaderSettings)

    def __post_init__(self) -> None:
        for key in ("max_words", "max_title_chars"):
            if getattr(self, key) < 1:
                raise SettingError(f"prompts.{key} must be at least 1, got {getattr(self, key)}.")
        for reader, least in (("generator", 1), ("validator", 0)):
            for key, bound in (("max_history", least), ("history_kinds", 0)):
                own = getattr(getattr(self, reader), key)
                value, path = (getattr(self, key), key) if own is None else (own, f"{reader}.{key}")
                if value < bound:
                    raise SettingError(f"prompts.{path} must be at least {bound}, got {value}.")

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> PromptSettings:
        """The settings of a saved configuration, whose nested sections are mappings; one may lack them."""
        readers = {key: ReaderSettings(**section[key]) for key in ("generator", "validator") if key in section}
        return cls(**{**section, **readers})

    def for_generator(self) -> PromptSettings:
        """The settings with what the generator reads of a history in the keys that both readers share."""
        return self._seen_by(self.generator)

    def for_validator(self) -> PromptSettings:
        """The same for the validator."""
        return self._seen_by(self.validator)

    def _seen_by(self, reader: ReaderSettings) -> PromptSettings:
        # Both are spelled out, so that a change of a shared key doesn't reach the other one.
        generator, validator = self._complete(self.generator), self._complete(self.validator)
        return replace(self, generator=generator, validator=validator, **asdict(self._complete(reader)))

    def _complete(self, reader: ReaderSettings) -> ReaderSettings:
        own = {key: value for key, value in asdict(reader).items() if value is not None}
        return ReaderSettings(**({key.name: getattr(self, key.name) for key in fields(ReaderSettings)} | own))

    @property
    def prefilled(self) -> int:
        """How many of the last segments of V's prompt belong to V's turn."""
        return int(self.order == "prefill")
