"""The statistics of a bundle: worked out once when it is written, looked up when a request comes.

They answer as the classes of `trackrec.ctr.features` that they stand for, bit by bit, for the moment after all ratings.

Letters: I items, N rows, H list of rated items, A attributes, K items with neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from trackrec.ctr.features import neighbours
from trackrec.ctr.features.dense_statistics import USER_NAMES
from trackrec.ctr.features.neighbours import Neighbours
from trackrec.ctr.features.past import UNKNOWN, Earlier, Prior, Priors
from trackrec.ctr.features.user_statistics import EarlierUserRatings
from trackrec.serving.users import Taste

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]
Int = NDArray[np.int64]


class KeptItems:
    """`trackrec.ctr.features.dense_statistics.ItemRatings` of one moment, from arrays.

    Args:
        statistics: (1 + I, 3).
        expected: (1 + I,).
    """

    def __init__(self, statistics: Float32, expected: Float32) -> None:
        self._statistics, self._expected = statistics, expected

    def statistics(self, rows: Int, times: Int) -> Float32:
        """The rows' statistics; ``times`` are ignored."""
        return self._statistics[rows]

    def expected(self, rows: NDArray[np.int32], times: Int) -> Float32:
        """The rows' smoothed mean ratings; ``times`` are ignored."""
        return self._expected[rows]


class KeptNeighbours(Neighbours):
    """`Neighbours` of one moment, from arrays.

    Args:
        kept: (1 + I,) number of each item row among the K, -1 for the others.
        weights: (K, K) s_ij; may be mapped from a file.
    """

    def __init__(self, kept: Int, weights: Float32) -> None:
        self.kept = kept
        nothing = np.zeros(0, np.int64)
        always = np.array([np.iinfo(np.int64).min])
        self.events = neighbours._Events(nothing, nothing, nothing, np.zeros(0, np.float32), always)
        # The similarity is the sum of products over a count that is smoothed and scaled; here it is the sum over 1.
        one = np.float32(1.0 / neighbours._VARIANCE - neighbours._PAIR_SMOOTHING)
        self._all = neighbours._Sums(weights, np.broadcast_to(one, weights.shape))

    def _sums(self, wanted: list[int]) -> Iterator[tuple[int, neighbours._Sums]]:
        yield from ((block, self._all) for block in wanted)


def neighbour_weights(of: Neighbours, time: int) -> Float32:
    """(K, K) s_ij for rows of a moment; zeros where nothing came before it."""
    of.prepare(time)
    if of._last is None:
        size = int(of.kept.max(initial=-1)) + 1
        return np.zeros((size, size), np.float32)
    products, counts = of._last[1]
    weights: Float32 = products / ((counts + neighbours._PAIR_SMOOTHING) * neighbours._VARIANCE)
    return weights


class _OneUser(Earlier):
    """Sums of one user's rows by small keys, none of them for a negative key."""

    def __init__(self, counts: Float, sums: Float) -> None:
        self._counts, self._totals = counts, sums

    def __call__(self, keys: Int, times: Int) -> tuple[Float, Float]:
        """Keys (N,) -> (N,) counts and (N, 1 or 2) sums."""
        found, index = keys >= 0, np.maximum(keys, 0)
        return np.where(found, self._counts[index], 0.0), np.where(found[:, None], self._totals[index], 0.0)


class _Overall(Priors):
    """Sums over all rows."""

    def __init__(self, everything: tuple[float, float, float]) -> None:
        self._everything = everything

    def __call__(self, keys: Int, times: Int) -> Prior:
        """The same three sums for each of the N keys."""
        return Prior(*(np.full(len(keys), value) for value in self._everything))


class KeptTastes(EarlierUserRatings):
    """`EarlierUserRatings` for rows of one user.

    Args:
        taste: of the user.
        everything: count, likes and sum of all ratings.
        attributes: (1 + I, A) attribute indices.
    """

    def __init__(self, taste: Taste, everything: tuple[float, float, float], attributes: NDArray[np.int32]) -> None:
        self._attributes, self._n_attributes = attributes, 0
        self._overall = _Overall(everything)
        self._by_user = _OneUser(np.array([taste.n]), np.array([[taste.liked, taste.above]]))
        size = 1 + max(int(attributes.max(initial=0)), *taste.attributes, 0)
        counts, sums = np.zeros(size), np.zeros((size, 1))
        counts[list(taste.attributes)], sums[list(taste.attributes), 0] = taste.counts, taste.sums
        self._by_attribute = _OneUser(counts, sums)

    def statistics(self, users: NDArray[np.int32], item_rows: Int, times: Int) -> Float32:
        """See `EarlierUserRatings.statistics`; all rows have the one user."""
        if users[0] == UNKNOWN:
            return np.zeros((len(users), len(USER_NAMES)), np.float32)
        return super().statistics(np.zeros_like(users), item_rows, times)


def tastes(of: EarlierUserRatings, n_users: int, time: int) -> list[Taste]:
    """What `KeptTastes` reads of each of the first ``n_users`` indices, at a moment."""
    users = np.arange(n_users)
    counts, sums = of._by_user(users, np.full(n_users, time))
    pairs = np.unique(of._by_attribute.ranked // of._by_attribute.scale)
    n, above = of._by_attribute(pairs, np.full(len(pairs), time))
    starts = np.searchsorted(pairs, np.arange(n_users + 1) * of._n_attributes)
    return [
        Taste(
            n=float(counts[user]),
            liked=float(sums[user, 0]),
            above=float(sums[user, 1]),
            attributes=tuple((pairs[start:end] - user * of._n_attributes).tolist()),
            counts=tuple(n[start:end].tolist()),
            sums=tuple(above[start:end, 0].tolist()),
        )
        for user, start, end in zip(users.tolist(), starts, starts[1:], strict=False)
    ]
