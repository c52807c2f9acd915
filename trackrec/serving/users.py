"""What a net reads of one user: the state that a store keeps, with newer ratings and the text of today.

A bundle holds the state of every user of its run (`trackrec.serving.bundle.Bundle.users`). A store keeps what
`UserState.pack` makes of it, beside the user's newer ratings and the vector of their newest text, and puts them
together for a request:

    state = UserState.unpack(blob).newer(["i7", "i9"], [4.0, None])     # appended, newest last
    state = state.with_text(vector)                                     # of a generation; float16 is fine
    stranger = UserState("u99").newer(["i7"], [5.0])                    # a user whom the run doesn't know
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trackrec.ctr.features.past import UNKNOWN

Ratings = tuple[float | None, ...]


@dataclass(frozen=True)
class Taste:
    """Sums over a user's ratings that statistics may count; they stay as they were when the net was trained.

    Attributes:
        n: ratings.
        liked: of them, likes.
        above: sum of the ratings, on the bundle's scale, minus what was expected of their items.
        attributes: attribute indices of the bundle that the rated items have.
        counts: ratings of items with each of them.
        sums: the part of ``above`` that belongs to each of them.
    """

    n: float = 0.0
    liked: float = 0.0
    above: float = 0.0
    attributes: tuple[int, ...] = ()
    counts: tuple[float, ...] = ()
    sums: tuple[float, ...] = ()


@dataclass(frozen=True)
class UserState:
    """What a net reads of one user.

    Attributes:
        user_id: the user.
        items: rated items, the newest last. Only the bundle's ``recent_len`` newest matter.
        ratings: of them, in the data's unit; None for an item that was chosen without a rating.
        history_items, history_ratings: the history that the statistics of the nets count, as it was in the run.
        seen: items that the user rated and that must not be recommended, in any order; others may be in ``items``.
        index: in the vocabulary of users; `UNKNOWN` for a user without train rows.
        taste: sums over the user's train ratings.
        text: (D,) the encoder's vector of the user's text; None where there is none.
        log_odds: the validator's log-odds by item, for a net that reads them.
    """

    user_id: str
    items: tuple[str, ...] = ()
    ratings: Ratings = ()
    history_items: tuple[str, ...] = ()
    history_ratings: Ratings = ()
    seen: tuple[str, ...] = ()
    index: int = UNKNOWN
    taste: Taste = field(default_factory=Taste)
    text: NDArray[np.floating[Any]] | None = None
    log_odds: Mapping[str, float] | None = None

    def newer(self, items: Sequence[str], ratings: Sequence[float | None]) -> UserState:
        """With newer ratings, the newest last."""
        if len(items) != len(ratings):
            raise ValueError(f"{len(items)} items with {len(ratings)} ratings")
        return replace(self, items=(*self.items, *items), ratings=(*self.ratings, *ratings))

    def with_text(self, vector: NDArray[np.floating[Any]] | None) -> UserState:
        """With another text."""
        return replace(self, text=vector)

    def pack(self) -> bytes:
        """The state without ``text`` and ``log_odds``, which a store keeps by themselves."""
        values = asdict(replace(self, text=None, log_odds=None))
        return json.dumps({name: value for name, value in values.items() if value is not None}).encode()

    @classmethod
    def unpack(cls, packed: bytes) -> UserState:
        """What `pack` wrote."""
        values = {name: _frozen(value) for name, value in json.loads(packed).items()}
        return cls(**{**values, "taste": Taste(**{name: _frozen(value) for name, value in values["taste"].items()})})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
