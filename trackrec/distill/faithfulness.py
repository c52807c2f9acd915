"""Whether a text names only what the history holds."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from trackrec.prompts import Rated

Words = tuple[str, ...]
_MIN_TITLE_CHARS = 8


class Claims(NamedTuple):
    """Names of the catalogue that a text holds, and how many of them its history doesn't."""

    claims: int
    unsupported: int


class ClaimChecker:
    """Finds titles and attributes of a catalogue in texts; build it once for many texts.

    Case, punctuation and spacing don't count. Only whole words match. Where titles overlap the longest one holds, and
    an attribute inside a title is part of the title. Titles of one word with fewer than eight characters ("It", "Big")
    are left out: most of their matches would be ordinary words. A name counts once per text.

    Args:
        catalogue_titles: titles that a text could name.
        catalogue_attributes: attributes that a text could name.
    """

    def __init__(self, catalogue_titles: Iterable[str], catalogue_attributes: Iterable[str]) -> None:
        titles = {words for title in catalogue_titles if (words := _words(title)) and _tells(words)}
        attributes = {words for name in catalogue_attributes if (words := _words(name))}
        self._titles, self._attributes = titles, attributes
        self._longest = max(map(len, titles | attributes), default=0)

    def check(self, text: str, history: Sequence[Rated]) -> Claims:
        """Count the names in a text and those that no item of the history bears."""
        titles = {_words(entry.item.title) for entry in history}
        attributes = {_words(name) for entry in history for name in entry.item.attributes}
        named_titles, named_attributes = self._named(_words(text))
        claims = len(named_titles) + len(named_attributes)
        return Claims(claims, len(named_titles - titles) + len(named_attributes - attributes))

    def _named(self, words: Words) -> tuple[set[Words], set[Words]]:
        """Titles and attributes in a text, read from left to right."""
        titles: set[Words] = set()
        attributes: set[Words] = set()
        place = 0
        while place < len(words):
            runs = [words[place : place + size] for size in range(min(self._longest, len(words) - place), 0, -1)]
            # A title first: "War of the Worlds" is no claim about War.
            for known, found in ((self._titles, titles), (self._attributes, attributes)):
                if match := next((run for run in runs if run in known), None):
                    found.add(match)
                    place += len(match)
                    break
            else:
                place += 1
        return titles, attributes


def unsupported_claims(
    text: str, history: Sequence[Rated], catalogue_titles: Collection[str], catalogue_attributes: Collection[str]
) -> Claims:
    """Count the catalogue's names in one text and those that its history doesn't hold; see `ClaimChecker`."""
    return ClaimChecker(catalogue_titles, catalogue_attributes).check(text, history)


def _words(text: str) -> Words:
    plain = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    return tuple(re.findall(r"\w+(?:'\w+)*", plain))


def _tells(words: Words) -> bool:
    return len(words) > 1 or len(words[0]) >= _MIN_TITLE_CHARS
