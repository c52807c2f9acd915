"""The frozen prompt templates, their ids, and the domain words that a config fills in.

A prompt is a list of text segments, tokenized one by one, so that prompts that share segments share tokens. Titles and
texts are data: line breaks are folded here, and `trackrec.llm.chat` encodes control tokens inside them as plain text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from trackrec.prompts.settings import PromptSettings
from trackrec.storage.atomic import stable_hash

RECCOT_TEMPLATE = "reccot.v1"
NO_HISTORY = "No history yet."
"""The text about a user without a history: there is nothing that a generator could describe."""


class Item(NamedTuple):
    """What a prompt can show of an item."""

    title: str
    attributes: Sequence[str] = ()
    year: int | None = None


class Rated(NamedTuple):
    """One entry of a history; without a rating it was chosen, which says nothing on how often the user likes items."""

    item: Item
    liked: bool
    rated: bool = True


class Leanings(NamedTuple):
    """Attributes of a history that are mostly liked or mostly disliked, the clearest first, with counts.

    Counts are 0 where the history holds items without a rating: what it leaves out isn't known.
    """

    liked: list[tuple[str, int]]
    disliked: list[tuple[str, int]]


def fold(text: str) -> str:
    """Replace each run of white space by one space, so that data can't break the line structure of a prompt."""
    return re.sub(r"\s+", " ", text).strip()


def describe(item: Item, settings: PromptSettings, attributes: bool, years: bool = True) -> str:
    """``Title (year) [a, b]``, cut to the allowed length."""
    title = fold(item.title)[: settings.max_title_chars]
    year = f" ({item.year})" if years and item.year is not None else ""
    names = ", ".join(fold(name) for name in item.attributes) if attributes else ""
    return f"{title}{year} [{names}]" if names else f"{title}{year}"


def history_segment(history: Sequence[Rated], settings: PromptSettings, user_attributes: Sequence[str] = ()) -> str:
    """The list of rated items with which a prompt begins, oldest first; of an empty history that there are none.

    Args:
        history: all of it.
        settings: of the reader, the generator or the validator (`PromptSettings.for_generator`).
        user_attributes: from the users table.
    """
    about = ""
    if settings.user_attributes and user_attributes:
        about = f"A {settings.user}: {', '.join(fold(name) for name in user_attributes)}.\n"
    if not history:
        return f"{about}The {settings.items} a {settings.user} {settings.rated}: none yet."
    shown = newest(history, settings)
    facts = history_facts(history, settings)
    if not shown:
        return about + " ".join([f"A {settings.user}.", *facts])
    lines = [
        f"{describe(entry.item, settings, settings.history_attributes, settings.history_years)}: "
        f"{settings.liked if entry.liked else settings.disliked}"
        for entry in shown
    ]
    title = f"The {settings.items} a {settings.user} {settings.rated}, oldest first:"
    if facts:
        title = f"A {settings.user}. {' '.join(facts)} The latest, oldest first:"
    return f"{about}{title}\n" + "\n".join(lines)


def newest(history: Sequence[Rated], settings: PromptSettings) -> Sequence[Rated]:
    """The entries that a prompt lists, oldest first; a validator's may list none."""
    return history[len(history) - min(settings.max_history, len(history)) :]


def leanings(history: Sequence[Rated]) -> Leanings:
    """Which attributes were liked more often than disliked, and the other way round."""
    up = Counter(fold(name) for entry in history if entry.liked for name in entry.item.attributes)
    down = Counter(fold(name) for entry in history if not entry.liked for name in entry.item.attributes)
    lean = {name: up[name] - down[name] for name in up | down}
    best = sorted((name for name in up if lean[name] > 0), key=lambda name: (-lean[name], name))
    worst = sorted((name for name in down if lean[name] < 0), key=lambda name: (lean[name], name))
    known = all(entry.rated for entry in history)
    return Leanings(
        [(name, up[name] if known else 0) for name in best], [(name, down[name] if known else 0) for name in worst]
    )


def counted(names: Sequence[tuple[str, int]]) -> str:
    """``War (5), Comedy (3)``; a name with a count of 0 stands alone."""
    return ", ".join(f"{name} ({count})" if count else name for name, count in names)


def evidence(history: Sequence[Rated], settings: PromptSettings) -> list[Rated]:
    """What a prompt shows of a history: the items listed and, as one more entry, the attributes named above them."""
    named = {name for side in _kinds_shown(history, settings) for name, _ in side}
    above = [Rated(Item("", sorted(named)), True)] if named else []
    return [*newest(history, settings), *above]


def history_facts(history: Sequence[Rated], settings: PromptSettings) -> list[str]:
    """Sentences on the whole history, none on an empty one; the list shows only its newest items."""
    facts = []
    rated = [entry for entry in history if entry.rated]
    if settings.history_counts and rated:
        liked = sum(entry.liked for entry in rated)
        facts.append(f"{settings.liked.capitalize()} {liked} of {len(rated)} {settings.items}.")
    for word, names in zip((settings.liked, settings.disliked), _kinds_shown(history, settings), strict=True):
        if names:
            facts.append(f"Mostly {word}: {counted(names)}.")
    return facts


def _kinds_shown(history: Sequence[Rated], settings: PromptSettings) -> Leanings:
    """The attributes that a prompt names above the list; none where the settings ask for none."""
    limit = settings.history_kinds
    if not limit:
        return Leanings([], [])
    lean = leanings(history)
    return Leanings(lean.liked[:limit], lean.disliked[:limit])


def reccot_segments(history: str, settings: PromptSettings) -> list[str]:
    """The prompt of the generator (G): the history, then the request for a RecCoT. It never holds a target."""
    request = (
        f"\n\nDescribe the taste of this {settings.user} in at most {settings.max_words} words: which kinds of "
        f"{settings.items} are {settings.liked}, which are {settings.disliked}, and how sure that is. "
        "Use only the list above."
    )
    return [history, request]


def notes_segment(reccot: str, settings: PromptSettings) -> str:
    """The segment with the RecCoT in the validator's prompt: by its tokens the prompt is longer than without a text."""
    return f"\n\nNotes on this {settings.user}: <summary>{fold(reccot)}</summary>"


def validator_segments(history: str, reccot: str | None, target: Item, settings: PromptSettings) -> list[str]:
    """The prompt of the validator (V): the history, the RecCoT (left out when None), the question and the target.

    With ``order: shared`` the segments are history, RecCoT, question, target, so that all targets share what comes
    before; with ``release`` history, target, RecCoT, question; with ``prefill`` those of ``shared``, of which the
    target opens the answer (`PromptSettings.prefilled`).
    """
    notes = [] if reccot is None else [notes_segment(reccot, settings)]
    question = f"\n\nWill this {settings.user} {settings.like} the next {settings.item}? Answer Yes or No."
    name = describe(target, settings, settings.target_attributes)
    if settings.order == "prefill":
        return [history, *notes, question, f"{name}:"]
    name = f"\n\nNext {settings.item}: {name}."
    if settings.order == "release":
        return [history, name, *notes, question]
    return [history, *notes, question, name]


def prompt_hash(template: str, segments: Sequence[str]) -> str:
    """Identifies a prompt by its template id and its text."""
    return stable_hash(template, *segments)
