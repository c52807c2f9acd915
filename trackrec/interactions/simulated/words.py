"""The words of the simulated world: its genres, and titles that partly reveal them."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np


class Genre(NamedTuple):
    """A genre: its name in the catalogue, its plural, and the words of its titles."""

    name: str
    plural: str
    adjectives: tuple[str, ...]
    nouns: tuple[str, ...]


def _genre(name: str, plural: str, adjectives: str, nouns: str) -> Genre:
    return Genre(name, plural, _words(adjectives), _words(nouns))


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


GENRES = (
    _genre(
        "Western",
        "westerns",
        "Dusty Lonesome Rusty Branded Prairie Lawless Sunburnt Leather",
        "Canyon Saddle Outlaw Ranch Stagecoach Sheriff Mesa Posse",
    ),
    _genre(
        "Comedy",
        "comedies",
        "Silly Clumsy Cheerful Mistaken Borrowed Giddy Tipsy Bumbling",
        "Butler Picnic Neighbour Uncle Wager Mixup Honeymooner Parrot",
    ),
    _genre(
        "Horror",
        "horror films",
        "Cursed Bloody Haunted Rotting Screaming Unholy Buried Pale",
        "Crypt Asylum Ghoul Cellar Coffin Swarm Phantom Scarecrow",
    ),
    _genre(
        "Romance",
        "romances",
        "Tender Longing Moonlit Faithful Blushing Stolen Parisian Velvet",
        "Kiss Letter Waltz Bride Promise Sweetheart Balcony Roses",
    ),
    _genre(
        "War",
        "war films",
        "Shattered Fallen Armoured Muddy Besieged Wounded Captured Marching",
        "Trench Battalion Sniper Convoy Bunker Armistice Barrage Sergeant",
    ),
    _genre(
        "Mystery",
        "mysteries",
        "Missing Secret Vanishing Locked Anonymous Crooked Unsolved Veiled",
        "Alibi Detective Clue Cipher Witness Poison Inspector Verdict",
    ),
)
_TRIES = 1000  # draws of a title before the unused ones count as exhausted
GENRE_NAMES = tuple(genre.name for genre in GENRES)

# Words of no genre.
ADJECTIVES = _words("Last First Long Blue Quiet Little Golden Second Northern Bitter Early Broken Open Late")
NOUNS = _words("River House Night Road Garden Winter Story City Morning Stranger Window Summer Bridge Return")


def draw_title(rng: np.random.Generator, genres: tuple[int, ...], told: float) -> str:
    """A title of two words; each belongs to the item's genres with probability ``told``, else to none.

    Args:
        rng: drawn from.
        genres: indices of the item's genres. The first supplies two thirds of the genre words.
        told: probability of a genre word.
    """

    def word(kind: str) -> str:
        if rng.random() >= told:
            return str(rng.choice(ADJECTIVES if kind == "adjectives" else NOUNS))
        chosen = genres[0] if len(genres) == 1 or rng.random() < 2 / 3 else genres[1]
        return str(rng.choice(getattr(GENRES[chosen], kind)))

    return f"{word('adjectives')} {word('nouns')}"


def draw_titles(rng: np.random.Generator, genres: list[tuple[int, ...]], told: float) -> list[str]:
    """One title per item, each different from the others: a title drawn twice is drawn again.

    There are a few thousand titles; if none is left for an item, its title gets a number.
    """
    titles: dict[str, None] = {}
    for item_genres in genres:
        for _ in range(_TRIES):
            if (title := draw_title(rng, item_genres, told)) not in titles:
                break
        else:
            title = next(f"{title} {n}" for n in itertools.count(2) if f"{title} {n}" not in titles)
        titles[title] = None
    return list(titles)
