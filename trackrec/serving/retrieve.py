"""Candidates for a user who names none: retrieve, then rank.

    retriever = Retriever(bundle)
    found = retriever.candidates(state, 300)              # unseen items, the most promising first
    best = recommend(ranker, retriever, state, k=10)      # (item, p) by the net, best first

Three lists are merged by rank, each item once: the most liked items; the neighbours of what the user rated, by the
similarities that the nets read; and the items whose texts lie nearest to the user's text. All three are exact, by
NumPy.
Nothing here imports torch.

Letters: I items, K items with neighbours, D text dim.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trackrec.serving.bundle import ITEM_VECTORS, ITEMS, Bundle
from trackrec.serving.ranker import Ranker
from trackrec.serving.users import UserState

POPULAR, NEIGHBOURS, TEXT = "popular", "neighbours", "text"


class Candidates(NamedTuple):
    """Items, the most promising first, and in the first ``n`` of which lists each stood."""

    items: list[str]
    found_by: list[tuple[str, ...]]


class Recommended(NamedTuple):
    """One item of an answer: P(like), who answered (`trackrec.serving.ranker`), and which lists found it."""

    item: str
    p: float
    answered_by: str
    found_by: tuple[str, ...]


class Retriever:
    """Finds candidates in a bundle's catalogue.

    Args:
        bundle: an open one.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        likes = pl.read_parquet(bundle.path / ITEMS, columns=["likes"])["likes"].to_numpy()
        self._popular = 1 + np.argsort(-likes, kind="stable")
        self._numbered = np.flatnonzero(bundle.kept >= 0)  # rows of the K, in the order of their numbers
        self._vectors: NDArray[np.float32] | None = None
        if ITEM_VECTORS in bundle.info["files"]:
            self._vectors = np.load(bundle.path / ITEM_VECTORS).astype(np.float32)

    def candidates(self, user: UserState, n: int, without: Collection[str] = (), text: bool = True) -> Candidates:
        """At most ``n`` items that the user hasn't rated.

        Args:
            user: the state.
            n: how many.
            without: further items to leave out.
            text: whether the user's text finds items.
        """
        best = self.lists(user, n, without, text)
        chosen = list(dict.fromkeys(_in_turn(best.values())))[:n]
        members = {name: set(found) for name, found in best.items()}
        return Candidates(chosen, [tuple(name for name, found in members.items() if item in found) for item in chosen])

    def lists(self, user: UserState, n: int, without: Collection[str] = (), text: bool = True) -> dict[str, list[str]]:
        """The first ``n`` unseen items of each list, by its name; the arguments are those of `candidates`."""
        rows, ids = self._bundle.item_rows, self._bundle.item_ids
        closed = np.zeros(1 + len(rows), np.bool_)
        left_out = {*user.items, *user.history_items, *user.seen, *without}
        closed[[row for row in map(rows.get, left_out) if row is not None]] = True
        lists = {POPULAR: self._popular, NEIGHBOURS: self._by_neighbours(user)}
        if text:
            lists[TEXT] = self._by_text(user)
        return {name: [ids[row - 1] for row in found[~closed[found]][:n].tolist()] for name, found in lists.items()}

    def _by_neighbours(self, user: UserState) -> NDArray[np.int64]:
        """Item rows by Σ_j s_ij e_j over the newest rated items j, e_j the rating minus what was expected of j.

        Items without a positive sum are left out.
        """
        bundle = self._bundle
        rated = [
            (bundle.item_rows[item], rating)
            for item, rating in zip(user.items[-bundle.recent_len :], user.ratings[-bundle.recent_len :], strict=True)
            if item in bundle.item_rows
        ]
        if bundle.history_statistics == "none" or not rated:
            return np.zeros(0, np.int64)
        rows = np.array([row for row, _ in rated])
        ratings = np.array([np.nan if rating is None else rating for _, rating in rated])
        scaled = np.where(np.isnan(ratings), bundle.scale.liked, bundle.scale(ratings))
        above = scaled - bundle.expected[rows]
        known = bundle.kept[rows] >= 0
        sums = np.asarray(bundle.weights[bundle.kept[rows[known]]]).T @ above[known].astype(np.float32)
        order = np.argsort(-sums, kind="stable")
        found: NDArray[np.int64] = self._numbered[order[sums[order] > 0]]
        return found

    def _by_text(self, user: UserState) -> NDArray[np.int64]:
        """Item rows by the cosine of their text's vector and the user's."""
        if self._vectors is None or user.text is None:
            return np.zeros(0, np.int64)
        found: NDArray[np.int64] = 1 + np.argsort(-(self._vectors @ user.text.astype(np.float32)), kind="stable")
        return found


def recommend(
    ranker: Ranker,
    retriever: Retriever,
    user: UserState,
    k: int,
    n_candidates: int = 300,
    without: Collection[str] = (),
) -> list[Recommended]:
    """The ``k`` best items for a user by P(like), of those that were retrieved; best first.

    Args:
        ranker: of the same bundle as the retriever.
        retriever: finds the candidates.
        user: the state.
        k: how many.
        n_candidates: how many are ranked.
        without: items to leave out, beside those that the user has rated.
    """
    found = retriever.candidates(user, max(k, n_candidates), without)
    if not found.items:
        return []
    answers = ranker.answer(user, found.items)
    order = np.argsort(-answers.p, kind="stable")[:k].tolist()
    return [
        Recommended(found.items[place], float(answers.p[place]), answers.answered_by[place], found.found_by[place])
        for place in order
    ]


def _in_turn(lists: Iterable[list[str]]) -> Iterator[str]:
    """The first of every list, then the second of every list, and so on."""
    for items in zip_longest(*lists):
        yield from (item for item in items if item is not None)
