"""Guesses what items and users are called in prompts, and what users do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from trackrec.interactions.guess.names import tokens


class Domain(NamedTuple):
    """The words of the settings ``prompts.item``, ``items`` and ``user``, and why."""

    item: str
    items: str
    user: str
    why: str


_FILM, _GAME, _BOOK = ("film", "films", "viewer"), ("game", "games", "player"), ("book", "books", "reader")
_SONG, _ARTIST = ("song", "songs", "listener"), ("artist", "artists", "listener")
_NEWS, _PLACE = ("article", "articles", "reader"), ("place", "places", "visitor")
_WORDS: dict[str, tuple[str, str, str]] = {
    **dict.fromkeys(["movie", "film", "imdb", "tmdb", "movielens", "movieid"], _FILM),
    **dict.fromkeys(["book", "isbn", "goodreads", "bookid", "bx"], _BOOK),
    **dict.fromkeys(["game", "steam", "gameid"], _GAME),
    **dict.fromkeys(["artist", "artname", "artmbid", "artistid"], _ARTIST),
    **dict.fromkeys(["song", "track", "music"], _SONG),
    **dict.fromkeys(["news", "article", "headline"], _NEWS),
    "album": ("album", "albums", "listener"),
    "anime": ("anime", "anime", "viewer"),
    "series": ("series", "series", "viewer"),
    "show": ("show", "shows", "viewer"),
    "recipe": ("recipe", "recipes", "cook"),
    "beer": ("beer", "beers", "drinker"),
    "wine": ("wine", "wines", "drinker"),
    "restaurant": ("restaurant", "restaurants", "guest"),
    "hotel": ("hotel", "hotels", "guest"),
    **dict.fromkeys(["business", "place", "venue", "poi", "yelp"], _PLACE),
    "app": ("app", "apps", "user"),
    "course": ("course", "courses", "learner"),
    "podcast": ("podcast", "podcasts", "listener"),
    "joke": ("joke", "jokes", "reader"),
    "job": ("job", "jobs", "applicant"),
    "video": ("video", "videos", "viewer"),
    **dict.fromkeys(["product", "asin", "sku", "amazon"], ("product", "products", "customer")),
}
_RANK = {word: place for place, word in enumerate(_WORDS)}


def guess_domain(item: str, files: Iterable[str], columns: Iterable[str]) -> Domain:
    """The words by the name of the item's column, the names of the files, and those of all columns.

    What the files are called says more than the item's column: a product_id in steam_games is a game.
    """
    votes: dict[str, float] = {}
    for names, weight in (([item], 3.0), (files, 4.0), (columns, 1.0)):
        if votes and weight == 1.0:
            break  # the columns are asked last: those of a game may name its videos
        for word in dict.fromkeys(_singular(word) for name in names for word in tokens(name)):
            if word in _WORDS:
                votes[word] = votes.get(word, 0.0) + weight
    if not votes:
        return Domain("item", "items", "user", "no name of a file or column says what they are")
    best = max(votes, key=lambda word: (votes[word] - 2 * (_WORDS[word][0] == "product"), -_RANK[word]))
    return Domain(*_WORDS[best], f"{best!r} in the names")


def habit_words(signal: str, name: str, amount: bool) -> dict[str, str]:
    """The settings ``prompts.rated``, ``like``, ``liked`` and ``disliked`` for a kind of signal in a column."""
    found = set(tokens(name))
    if signal == "rating" and amount:
        if found & {"hours", "minutes", "playtime", "time"}:
            return _habits("played", "spend long on", "played for long", "played briefly")
        return _habits("played", "often play", "often played", "seldom played")
    if signal == "rating":
        return {"rated": "rated", "like": "like"}
    if found & {"purchase", "purchased", "bought", "buy"}:
        return _habits("was shown", "buy", "bought", "not bought")
    if signal == "impressions" or found & {"click", "clicked", "clicks"}:
        return _habits("was shown", "click", "clicked", "skipped")
    return {"rated": "rated", "like": "like"}


def _habits(rated: str, like: str, liked: str, disliked: str) -> dict[str, str]:
    return {"rated": rated, "like": like, "liked": liked, "disliked": disliked}


def _singular(word: str) -> str:
    return word if word in _WORDS else word.removesuffix("s")
