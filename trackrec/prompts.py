"""The frozen prompt templates, their ids, and the domain words that a config fills in.

A prompt is a list of text segments, tokenized one by one, so that prompts that share segments share tokens. Titles and
texts are data: line breaks are folded here, and `trackrec.llm.chat` encodes control tokens inside them as plain text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import polars as pl

from trackrec.tables import stable_hash

RECCOT_TEMPLATE = "reccot.v1"
JUDGE_TEMPLATE = "judge.v1"


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
                raise ValueError(f"prompts.{key} must be at least 1, got {getattr(self, key)}.")
        if self.history_kinds < 0:
            raise ValueError(f"prompts.history_kinds must not be negative, got {self.history_kinds}.")

    @property
    def prefilled(self) -> int:
        """How many of the last segments of V's prompt stand in V's own turn."""
        return int(self.order == "prefill")


class Item(NamedTuple):
    """What a prompt knows of an item."""

    title: str
    attributes: Sequence[str] = ()
    year: int | None = None


class Rated(NamedTuple):
    """One entry of a history."""

    item: Item
    liked: bool


class Leanings(NamedTuple):
    """Attributes of a history that lean one way, the clearest first, with how often they were liked or disliked."""

    liked: list[tuple[str, int]]
    disliked: list[tuple[str, int]]


class PromptBook:
    """Looks up what prompts need: histories, items and users by id.

    Args:
        histories: the histories table.
        items: the items table.
        users: the users table.
        threshold: a rating above it is liked.
        settings: words and limits.
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
        self._items = {row[0]: Item(row[1], row[2] or (), row[3]) for row in items.iter_rows()}
        self._users = dict(users.select("user_id", "attributes").iter_rows())
        self._histories = {row[0]: row[1:] for row in histories.iter_rows()}

    def item(self, item_id: str) -> Item:
        """Title, attributes and year of an item."""
        return self._items[item_id]

    def history(self, history_id: str) -> list[Rated]:
        """The rated items of a history, oldest first."""
        _, item_ids, ratings = self._histories[history_id]
        pairs = zip(item_ids, ratings, strict=True)
        return [Rated(self._items[item_id], rating > self._threshold) for item_id, rating in pairs]

    def user_of(self, history_id: str) -> str:
        """The user whose history it is."""
        return self._histories[history_id][0]

    def evidence(self, history_id: str) -> list[Rated]:
        """What a prompt holds of a history; see `evidence`."""
        return evidence(self.history(history_id), self.settings)

    def history_text(self, history_id: str) -> str:
        """The segment with which every prompt about this history begins."""
        about = self._users.get(self.user_of(history_id)) or ()
        return history_segment(self.history(history_id), self.settings, about)

    def reccot_prompt(self, history_id: str) -> list[str]:
        """Segments of G's prompt."""
        return reccot_segments(self.history_text(history_id), self.settings)

    def judge_prompt(self, history_id: str, reccot: str | None, item_id: str) -> list[str]:
        """Segments of V's prompt."""
        return judge_segments(self.history_text(history_id), reccot, self.item(item_id), self.settings)


def fold(text: str) -> str:
    """Runs of white space as one space: data can't break the line structure of a prompt."""
    return re.sub(r"\s+", " ", text).strip()


def describe(item: Item, settings: PromptSettings, attributes: bool, years: bool = True) -> str:
    """``Title (year) [a, b]``, cut to the allowed length."""
    title = fold(item.title)[: settings.max_title_chars]
    year = f" ({item.year})" if years and item.year is not None else ""
    names = ", ".join(fold(name) for name in item.attributes) if attributes else ""
    return f"{title}{year} [{names}]" if names else f"{title}{year}"


def history_segment(history: Sequence[Rated], settings: PromptSettings, user_attributes: Sequence[str] = ()) -> str:
    """The list of rated items with which every prompt begins, oldest first."""
    about = ""
    if settings.user_attributes and user_attributes:
        about = f"A {settings.user}: {', '.join(fold(name) for name in user_attributes)}.\n"
    lines = [
        f"{describe(entry.item, settings, settings.history_attributes, settings.history_years)}: "
        f"{settings.liked if entry.liked else settings.disliked}"
        for entry in history[-settings.max_history :]
    ]
    title = f"The {settings.items} a {settings.user} {settings.rated}, oldest first:"
    if facts := history_facts(history, settings):
        title = f"A {settings.user}. {' '.join(facts)} The latest, oldest first:"
    return f"{about}{title}\n" + "\n".join(lines)


def leanings(history: Sequence[Rated]) -> Leanings:
    """Which attributes were liked more often than disliked, and the other way round."""
    up = Counter(fold(name) for entry in history if entry.liked for name in entry.item.attributes)
    down = Counter(fold(name) for entry in history if not entry.liked for name in entry.item.attributes)
    lean = {name: up[name] - down[name] for name in up | down}
    best = sorted((name for name in up if lean[name] > 0), key=lambda name: (-lean[name], name))
    worst = sorted((name for name in down if lean[name] < 0), key=lambda name: (lean[name], name))
    return Leanings([(name, up[name]) for name in best], [(name, down[name]) for name in worst])


def counted(names: Sequence[tuple[str, int]]) -> str:
    """``War (5), Comedy (3)``."""
    return ", ".join(f"{name} ({count})" for name, count in names)


def evidence(history: Sequence[Rated], settings: PromptSettings) -> list[Rated]:
    """What a prompt holds of a history: the items that it lists and, as one more, the attributes named above them."""
    named = {name for side in _kinds_told(history, settings) for name, _ in side}
    above = [Rated(Item("", sorted(named)), True)] if named else []
    return [*history[-settings.max_history :], *above]


def history_facts(history: Sequence[Rated], settings: PromptSettings) -> list[str]:
    """Sentences on the whole history, of which the list shows the newest items only."""
    facts = []
    if settings.history_counts:
        liked = sum(entry.liked for entry in history)
        facts.append(f"{settings.liked.capitalize()} {liked} of {len(history)} {settings.items}.")
    for word, names in zip((settings.liked, settings.disliked), _kinds_told(history, settings), strict=True):
        if names:
            facts.append(f"Mostly {word}: {counted(names)}.")
    return facts


def _kinds_told(history: Sequence[Rated], settings: PromptSettings) -> Leanings:
    """The attributes that a prompt names above the list; none where the settings ask for none."""
    most = settings.history_kinds
    if not most:
        return Leanings([], [])
    lean = leanings(history)
    return Leanings(lean.liked[:most], lean.disliked[:most])


def reccot_segments(history: str, settings: PromptSettings) -> list[str]:
    """G's prompt: the history, then the request for a RecCoT. It never sees a target."""
    ask = (
        f"\n\nDescribe the taste of this {settings.user} in at most {settings.max_words} words: which kinds of "
        f"{settings.items} are {settings.liked}, which are {settings.disliked}, and how sure that is. "
        "Use only the list above."
    )
    return [history, ask]


def judge_segments(history: str, reccot: str | None, target: Item, settings: PromptSettings) -> list[str]:
    """V's prompt: the history, the RecCoT (left out when None) and the question about the target.

    With ``order: shared`` the segments are history, RecCoT, question, target, so that what every target needs is read
    once; with ``release`` history, target, RecCoT, question; with ``prefill`` those of ``shared``, of which the target
    opens the answer (`PromptSettings.prefilled`).
    """
    notes = [] if reccot is None else [f"\n\nNotes on this {settings.user}: <summary>{fold(reccot)}</summary>"]
    ask = f"\n\nWill this {settings.user} {settings.like} the next {settings.item}? Answer Yes or No."
    name = describe(target, settings, settings.target_attributes)
    if settings.order == "prefill":
        return [history, *notes, ask, f"{name}:"]
    name = f"\n\nNext {settings.item}: {name}."
    if settings.order == "release":
        return [history, name, *notes, ask]
    return [history, *notes, ask, name]


def prompt_hash(template: str, segments: Sequence[str]) -> str:
    """Identifies a prompt by its template id and its text."""
    return stable_hash(template, *segments)
