"""An item-item collaborative filtering score of the target, from strictly earlier ratings.

Letters: N rows, H list of rated items, M source rows, I items kept, n rows of a chunk.

Similarities are summed over blocks of time. A row reads only blocks that ended before its own block began, so they
contain neither its own rating nor a later one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trackrec.ctr.features.dense_statistics import EarlierItemRatings, ItemRatings
from trackrec.ctr.features.past import Earlier, RatedLists, encode

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

N_BLOCKS = 32
MAX_ITEMS = 4096  # two dense matrices of I × I: 134 MB
_USER_SMOOTHING = 5.0
_PAIR_SMOOTHING = 20.0  # pseudo-users without agreement, added to the users who rated both items
_VARIANCE = 0.25  # of a residual in scaled units; a constant, since an estimate would depend on every label
_CHUNK = 4096

Float32 = NDArray[np.float32]
Int = NDArray[np.int64]


def joined(first: RatedLists, second: RatedLists) -> RatedLists:
    """Both lists side by side; items of the second that are in the first are masked, so that each counts once."""
    repeated = np.zeros(second.mask.shape, np.bool_)
    for column in range(second.rows.shape[1]):
        repeated[:, column] = ((first.rows == second.rows[:, column : column + 1]) & first.mask).any(axis=1)
    rest = second._replace(mask=second.mask & ~repeated)
    return RatedLists(*(np.concatenate(pair, axis=1) for pair in zip(first, rest, strict=True)))


class Neighbours:
    """Similarities of items, computed once for any number of calls.

    e is a rating's residual: the rating minus its item's expected rating, minus the user's mean of that difference.
    s_ij = Σ_u e_ui e_uj / ((n_ij + 20) · .25) over the n_ij users who rated both: a regression of one residual on the
    other, shrunk to 0. Only the ``MAX_ITEMS`` items with the most source rows take part.

    Args:
        source: rows of :func:`trackrec.ctr.features.past.source_rows`.
        ratings: expected ratings of items, from the same rows.
    """

    def __init__(self, source: pl.DataFrame, ratings: EarlierItemRatings) -> None:
        self.events = _events(source, ratings)
        self.kept = _kept_items(self.events.item, ratings.n_items)
        self._last: tuple[list[int], _Sums] | None = None

    def prepare(self, time: int) -> None:
        """Compute in advance the sums that rows of this moment read."""
        block = int(np.searchsorted(self.events.edges, time, side="right")) - 1
        if block >= 0:
            list(self._sums([block]))

    def scores(
        self, times: Int, item_row: Int, rated_before: Callable[[Int], RatedLists], ratings: ItemRatings
    ) -> Float32:
        """(N,) Σ_j s_ij e_j over a row's rated items j, i the target.

        Args:
            times: (N,) of the rows.
            item_row: (N,) the target.
            rated_before: row indices -> the items that the user of each row rated before. It is called in chunks, since
                all lists at once would not fit in memory.
            ratings: expected ratings of items.
        """
        scores = np.zeros(len(times), np.float32)
        order = np.argsort(times, kind="stable")
        starts = np.searchsorted(times[order], self.events.edges)
        ends = np.append(starts[1:], len(times))
        for block, sums in self._sums(np.flatnonzero(ends > starts).tolist()):
            for start in range(int(starts[block]), int(ends[block]), _CHUNK):
                index = order[start : min(start + _CHUNK, int(ends[block]))]
                lists = rated_before(index)
                target, listed = self.kept[item_row[index]], self.kept[lists.rows]
                mask = lists.mask & (lists.rows != item_row[index][:, None])
                residuals = _residuals(lists._replace(mask=mask), ratings, times[index])
                known = mask & (listed >= 0) & (target >= 0)[:, None]
                pairs = (target[:, None], listed)
                weights = sums.products[pairs] / ((sums.counts[pairs] + _PAIR_SMOOTHING) * _VARIANCE)
                scores[index] = np.where(known, weights * residuals, 0.0).sum(axis=1)
        return scores

    def _sums(self, wanted: list[int]) -> Iterator[tuple[int, _Sums]]:
        """The sums of each wanted block. Those of a single one, as for requests, are kept for the next call."""
        if self._last is not None and self._last[0] == wanted:
            yield wanted[0], self._last[1]
            return
        for block, sums in _similarities(self.events, self.kept, wanted):
            if len(wanted) == 1:
                self._last = wanted, sums
            yield block, sums


class _Sums(NamedTuple):
    """Σ_u e_ui e_uj and n_ij over what came before a block, (I, I) each."""

    products: Float32
    counts: Float32


class _Events(NamedTuple):
    """Source rows as codes (M,), their residuals, and the first moment of each block."""

    user: Int
    item: Int  # item row, from 1
    time: Int
    residual: Float32
    edges: Int


def _events(source: pl.DataFrame, item_ratings: EarlierItemRatings) -> _Events:
    """Residuals use strictly earlier rows only, so that a later rating changes none of them."""
    user = encode(source["user_id"], source["user_id"].unique().sort())
    item = item_ratings.item_rows
    time = source["timestamp"].to_numpy()
    above = item_ratings.above
    count, sums = Earlier(user, time, above[:, None])(user, time)
    residual = above - sums[:, 0] / (count + _USER_SMOOTHING)
    edges = np.unique(np.quantile(time, np.linspace(0, 1, N_BLOCKS + 1)[:-1], method="lower")) if len(time) else time
    return _Events(user, item, time, residual.astype(np.float32), edges)


def _kept_items(item: Int, n_items: int) -> Int:
    """(1 + n_items,) number of each item row among the I kept, -1 for the others."""
    count = np.bincount(item, minlength=n_items + 1)
    ranked = np.argsort(-count, kind="stable")[:MAX_ITEMS]
    chosen = np.sort(ranked[count[ranked] > 0])
    numbers = np.full(n_items + 1, -1, np.int64)
    numbers[chosen] = np.arange(len(chosen))
    return numbers


def _similarities(events: _Events, kept: Int, wanted: list[int]) -> Iterator[tuple[int, _Sums]]:
    """Number of each wanted block, and its sums. All rows between two wanted blocks are added in one step."""
    from scipy import sparse

    size = int(kept.max(initial=-1)) + 1
    shape = (int(events.user.max(initial=-1)) + 1, size)
    products, counts = np.zeros((size, size), np.float32), np.zeros((size, size), np.float32)
    before = sparse.csr_matrix(shape, dtype=np.float32)
    kept_number = np.full(len(events.item), -1, np.int64)
    # A repeated (user, item) pair counts once, by its first rating: else sums would depend on where blocks end.
    first = np.unique(events.user * len(kept) + events.item, return_index=True)[1]
    kept_number[first] = kept[events.item[first]]
    done = np.iinfo(np.int64).min
    for block in wanted:
        index = np.flatnonzero((events.time >= done) & (events.time < events.edges[block]) & (kept_number >= 0))
        done = events.edges[block]
        new = sparse.csr_matrix((events.residual[index], (events.user[index], kept_number[index])), shape=shape)
        products += _new_pairs(before, new)
        counts += _new_pairs(_ones(before), _ones(new))
        before = (before + new).tocsr()
        yield block, _Sums(products, counts)


def _ones(matrix: csr_matrix) -> csr_matrix:
    from scipy import sparse

    return sparse.csr_matrix((np.ones_like(matrix.data), matrix.indices, matrix.indptr), shape=matrix.shape)


def _new_pairs(before: csr_matrix, new: csr_matrix) -> Float32:
    """(before + new)ᵀ(before + new) - beforeᵀ before, without the old pairs."""
    users = np.unique(new.nonzero()[0])
    old, fresh = before[users], new[users]
    crossed = old.T @ fresh
    counts: Float32 = (crossed + crossed.T + fresh.T @ fresh).toarray()
    return counts


def _residuals(lists: RatedLists, ratings: ItemRatings, times: Int) -> Float32:
    """(n, H) ratings minus their items' expected ratings, minus the list's mean of that, which is shrunk to 0."""
    above = np.where(lists.mask, lists.ratings - ratings.expected(lists.rows, times), 0.0)
    rated = lists.mask & lists.rated
    mean = np.where(rated, above, 0.0).sum(axis=1) / (rated.sum(axis=1) + _USER_SMOOTHING)
    return np.where(rated, above - mean[:, None], above).astype(np.float32)
