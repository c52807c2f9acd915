"""What the words of column names and file names say."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ID_WORDS = _words("id ids uid key code no nr number hash sha1 uuid index idx")

USER = _words(
    "user users reader reviewer customer member visitor viewer person listener player profile account client buyer "
    "username userid usersha visitorid customerid"
)
ITEM = _words(
    "item movie film book isbn asin product business game app track song artist album article news video recipe "
    "beer wine anime sku restaurant place venue poi hotel course podcast job joke show series story content ad "
    "title itemid movieid productid bookid artistid"
)
TIMES = {
    "timestamp": 6.0, "time": 6.0, "datetime": 6.0, "ts": 6.0, "date": 5.0, "when": 5.0, "created": 5.0, "added": 5.0,
    "at": 3.0, "day": 4.0, "unix": 5.0, "epoch": 5.0,
}  # fmt: skip
RATINGS = {
    "rating": 8.0, "ratings": 6.0, "stars": 8.0, "star": 7.0, "score": 7.0, "overall": 7.0, "rate": 7.0, "grade": 7.0,
    "hours": 7.0, "minutes": 5.0, "playtime": 7.0, "plays": 7.0, "playcount": 7.0, "listens": 7.0, "preference": 5.0,
    "weight": 4.0,
}  # fmt: skip
LABELS = {
    "label": 8.0, "click": 8.0, "clicked": 8.0, "clicks": 7.0, "like": 8.0, "liked": 8.0, "recommended": 7.0,
    "recommend": 7.0, "purchase": 7.0, "purchased": 7.0, "bought": 7.0, "target": 6.0, "rating": 6.0,
}  # fmt: skip
NO_RATINGS = _words(
    "helpful vote votes useful funny cool page year age position rank price products average early verified id "
    "count length row index"
)
AMOUNTS = _words("hours minutes playtime plays playcount listens play count")
TITLES = {"title": 9.0, "name": 7.0, "headline": 8.0}
ATTRIBUTES = {
    "genres": 10.0, "genre": 10.0, "categories": 9.0, "category": 9.0, "subcategory": 8.0, "tags": 8.0, "tag": 8.0,
    "shelves": 8.0, "brand": 7.0, "author": 7.0, "authors": 7.0, "artist": 7.0, "cat": 7.0, "topics": 8.0,
    "topic": 8.0, "keywords": 7.0, "cuisine": 8.0,
}  # fmt: skip
WHOLE = _words("brand author authors artist")
"""Attributes whose commas belong to one value."""
YEARS = {"year": 9.0, "publication": 7.0, "published": 7.0, "release": 7.0, "released": 7.0}
ABOUT_USERS = _words("age gender sex country state region city location occupation job language education profession")


def tokens(name: str) -> list[str]:
    """The words of a name, in small letters: ``unixReviewTime`` is unix, review, time."""
    return [word.lower() for word in _WORD.findall(name)]


def names_one(name: str, words: Collection[str], beside: Collection[str] = ()) -> bool:
    """Whether a name says that a column holds the id of one of these: ``user``, ``user_id``, ``User-ID``."""
    found = [word for word in tokens(name) if word not in _ID_WORDS and word not in beside]
    return len(found) == 1 and found[0] in words


def best_word(name: str, words: Mapping[str, float]) -> float:
    """The score of the best of a name's words; the last one counts most, since it says what the others are of."""
    found = tokens(name)
    scores = [words.get(word, 0.0) - (0 if word == found[-1] else 2) for word in found if word in words]
    return max(scores, default=0.0)
