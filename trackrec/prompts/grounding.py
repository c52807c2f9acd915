"""Grounding: whether the titles and attributes that a text names are in its history."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from trackrec.prompts.templates import Rated

Words = tuple[str, ...]
_MIN_TITLE_CHARS = 8
_WORD = re.compile(r"\w+(?:['’]\w+)*")


class Claims(NamedTuple):
    """How many names of the catalogue a text holds, and how many of them its history lacks."""

    claims: int
    unsupported: int


class Mention(NamedTuple):
    """One name of the catalogue in a text: its span, in characters of `normal_form`, and its words."""

    start: int
    end: int
    words: Words
    is_title: bool


class ClaimChecker:
    """Finds titles and attributes of a catalogue in texts; build it once for many texts.

    Case, punctuation and spacing don't count. Only whole words match. Of overlapping titles the longest one counts, and
    an attribute inside a title is part of the title. Titles of one word with fewer than eight characters ("It", "Big")
    are left out: most of their matches would be ordinary words. A name counts once per text.

    Args:
        catalogue_titles: titles that a text could name.
        catalogue_attributes: attributes that a text could name.
    """

    def __init__(self, catalogue_titles: Iterable[str], catalogue_attributes: Iterable[str]) -> None:
        titles = {
            words
            for title in catalogue_titles
            if (words := name_words(title)) and (len(words) > 1 or len(words[0]) >= _MIN_TITLE_CHARS)
        }
        attributes = {words for name in catalogue_attributes if (words := name_words(name))}
        self._titles, self._attributes = titles, attributes
        self._longest = max(map(len, titles | attributes), default=0)

    def check(self, text: str, history: Sequence[Rated]) -> Claims:
        """Count the names in a text, and those that no item of the history has."""
        named = {(mention.is_title, mention.words) for mention in self.mentions(text)}
        return Claims(len(named), len(named - _names(history)))

    def unsupported(self, text: str, history: Sequence[Rated]) -> list[Mention]:
        """The mentions in `normal_form(text)` of names that no item of the history has, from left to right."""
        history_names = _names(history)
        return [mention for mention in self.mentions(text) if (mention.is_title, mention.words) not in history_names]

    def mentions(self, text: str) -> Iterator[Mention]:
        """Titles and attributes in a text, read from left to right."""
        matches = list(_WORD.finditer(normal_form(text)))
        words = tuple(_plain(match.group()) for match in matches)
        first = 0
        while first < len(words):
            runs = [words[first : first + size] for size in range(min(self._longest, len(words) - first), 0, -1)]
            # A title first: "War of the Worlds" is no claim about War.
            for known, is_title in ((self._titles, True), (self._attributes, False)):
                if name := next((run for run in runs if run in known), None):
                    last = first + len(name) - 1
                    yield Mention(matches[first].start(), matches[last].end(), name, is_title)
                    first = last + 1
                    break
            else:
                first += 1


def checker_of(texts: Iterable[str], titles: Iterable[str], attributes: Iterable[str]) -> ClaimChecker:
    """A checker of some texts; of a catalogue's titles it knows only those whose words all occur in them."""
    words = {word for text in texts for word in name_words(text)}
    return ClaimChecker((title for title in titles if words.issuperset(name_words(title))), attributes)


def normal_form(text: str) -> str:
    """The text in the form that is searched for names: NFKC, with one code point per letter where Unicode has one."""
    return unicodedata.normalize("NFKC", text)


def _names(history: Sequence[Rated]) -> set[tuple[bool, Words]]:
    titles = {(True, name_words(entry.item.title)) for entry in history}
    return titles | {(False, name_words(name)) for entry in history for name in entry.item.attributes}


def name_words(text: str) -> Words:
    """The words of a name or text, in the form in which names are compared."""
    return tuple(_plain(word) for word in _WORD.findall(normal_form(text)))


def _plain(word: str) -> str:
    return word.casefold().replace("’", "'")
