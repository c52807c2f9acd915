"""Parses texts about users of the simulated world into claims, and collects the clauses that no rule reads."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from trackrec.interactions.simulated.words import GENRES

About = Literal["genre", "never", "era", "decade", "generosity", "title"]


class Claim(NamedTuple):
    """One statement about a user.

    Attributes:
        about: the kind of claim. ``never`` is a genre that the user can't stand.
        name: the genre's catalogue name, old or new, the first year of a decade, generous, harsh or balanced, a title.
        positive: whether the text says that the user likes it.
    """

    about: About
    name: str
    positive: bool = True


class ReadText(NamedTuple):
    """The claims of a text in its order, and its clauses (or parts of lists) that no rule reads."""

    claims: list[Claim]
    unparsable: list[str]


_LIKES = "likes|loves|enjoys|prefers|favours|is drawn to|is fond of"
_DISLIKES = "dislikes|hates|avoids|is cool on|turns away from|has no time for"
_NEVER = "never watches|can't stand"
_TASTE = re.compile(rf"^(?:(?:this|the) \w+ )?(?:({_LIKES})|({_DISLIKES})|({_NEVER})) (.+)$", re.IGNORECASE)
_TITLES = re.compile(r"^(?:favourites:|recently liked|enjoyed|liked) (.+)$", re.IGNORECASE)
_DECADE = re.compile(
    r"^(?:best with \w+ of the (\d{3}0)s|the (\d{3}0)s suit this \w+)$",
    re.IGNORECASE,
)
_DECADE_NAME = re.compile(r"^(?:films of )?the (\d{3}0)s$", re.IGNORECASE)
_ERA_NAME = re.compile(r"^(old|older|classic|new|newer|recent|modern) (?:films|ones)$", re.IGNORECASE)
_GENEROSITY = re.compile(
    r"^(?:an? )?(generous|harsh|balanced)(?: \w+)?(?:: (?:liked )?\d+ of \d+(?: liked)?)?$", re.IGNORECASE
)
_SILENT = re.compile(
    r"^(?:no kind of \w+ stands out|(?:fairly sure|some doubt|mostly a guess)(?:, (?:from|based on) \d+ \w+)?"
    r"|hard to say|that is (?:a guess|fairly sure))$",
    re.IGNORECASE,
)
_COUNT = re.compile(r"\s*\(\d+\)$")
_SPLIT = re.compile(r"\s*,\s*(?:and |or )?|\s+(?:and|or)\s+")
_GENRES = {word.casefold(): genre.name for genre in GENRES for word in (genre.name, genre.plural)} | {
    f"{genre.name} films".casefold(): genre.name for genre in GENRES
}
_ERAS = {"old": "old", "older": "old", "classic": "old", "new": "new", "newer": "new", "recent": "new", "modern": "new"}


def read_claims(text: str) -> ReadText:
    """The claims of a text. The rules cover the sentences of `trackrec.distill.ProfileTeacher` and similar ones.

    "Likes westerns (3), old films; avoids Horror." holds three. Sentences on how sure the text is hold none.
    """
    reading = ReadText([], [])
    for clause in filter(None, (part.strip() for part in re.split(r"[.;!?\n]+", text))):
        _read_clause(clause, reading)
    return reading


def _read_clause(clause: str, reading: ReadText) -> None:
    if _SILENT.match(clause):
        return
    if match := _GENEROSITY.match(clause):
        reading.claims.append(Claim("generosity", match.group(1).lower()))
    elif match := _DECADE.match(clause):
        reading.claims.append(Claim("decade", match.group(1) or match.group(2)))
    elif match := _TASTE.match(clause):
        likes, _, never, listed = match.groups()
        for part in _SPLIT.split(listed):
            claim = _read_object(_COUNT.sub("", part.strip()), bool(likes), bool(never))
            if claim is None:
                reading.unparsable.append(part)
            else:
                reading.claims.append(claim)
    elif match := _TITLES.match(clause):
        reading.claims.extend(Claim("title", title) for title in _SPLIT.split(match.group(1)))
    else:
        reading.unparsable.append(clause)


def _read_object(words: str, positive: bool, never: bool) -> Claim | None:
    """The claim for what is liked, disliked or never watched; None if no rule reads it."""
    if genre := _GENRES.get(words.casefold()):
        return Claim("never" if never else "genre", genre, positive)
    if match := _ERA_NAME.match(words):
        return Claim("era", _ERAS[match.group(1).lower()], positive)
    if match := _DECADE_NAME.match(words):
        return Claim("decade", match.group(1), positive)
    return None
