"""Statistics of all that a user rated strictly before a row, among the ratings that statistics may count.

Letters: N rows, M source rows, A attributes of an item.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trackrec.ctr.features.dense_statistics import EarlierItemRatings
from trackrec.ctr.features.past import PADDING, UNKNOWN, Earlier, Prior, like_rate, logit

_SMOOTHING = 5.0  # pseudo-rows, added to the rows of a user
_ATTRIBUTE_SMOOTHING = 5.0  # the same for a user's rows with an attribute

Int = NDArray[np.int64]


class EarlierUserRatings:
    """A user's like-rate, kindness, activity and taste for attributes, from source rows earlier than each query.

    A user without a code, whose ratings no statistic may count, gets zeros, as a user without earlier rows does.

    Args:
        source: rows of :func:`trackrec.ctr.features.past.source_rows`.
        users: (M,) code of each source row's user; `UNKNOWN` has none.
        ratings: of the items, from the same rows.
        attributes: (1 + items, A) attribute indices.
    """

    def __init__(
        self,
        source: pl.DataFrame,
        users: NDArray[np.int32],
        ratings: EarlierItemRatings,
        attributes: NDArray[np.int32],
    ) -> None:
        self._overall, self._attributes = ratings.overall, attributes
        self._n_attributes = int(attributes.max(initial=0)) + 1
        known = np.flatnonzero(users != UNKNOWN)
        codes, times = users[known].astype(np.int64), source["timestamp"].to_numpy()[known]
        above = ratings.above[known]
        self._by_user = Earlier(codes, times, np.stack([ratings.liked[known], above], axis=1))
        of_row = attributes[ratings.item_rows[known]]  # (M', A)
        row, column = np.nonzero(of_row > UNKNOWN)
        pairs = codes[row] * self._n_attributes + of_row[row, column]
        self._by_attribute = Earlier(pairs, times[row], above[row, None])

    def statistics(self, users: NDArray[np.int32], item_rows: Int, times: Int) -> NDArray[np.float32]:
        """Codes (N,), target item rows (N,), times (N,) -> (N, 4), in the order of ``USER_NAMES``.

        ``user_like_logit``: logit of the smoothed like-rate, minus that of all earlier rows. ``user_residual``: mean of
        the ratings minus what was expected of their items, shrunk to 0. ``user_log_count``: log(1 + rows) / 5.
        ``user_affinity``: the mean, over the target's attributes, of what the user's ratings with the attribute are
        above the user's own mean residual, shrunk to 0.
        """
        codes = users.astype(np.int64)
        count, sums = self._by_user(codes, times)
        everything = self._overall(np.zeros_like(times), times)
        base = (everything.likes + 1.0) / (everything.n + 2.0)
        liked = logit(like_rate(Prior(count, sums[:, 0], sums[:, 1]), base, _SMOOTHING)) - logit(base)
        residual = sums[:, 1] / (count + _SMOOTHING)
        target = self._attributes[item_rows].astype(np.int64)  # (N, A)
        pairs = np.where(target > UNKNOWN, codes[:, None] * self._n_attributes + target, -1)
        n_shared, shared = self._by_attribute(pairs.ravel(), np.repeat(times, target.shape[1]))
        n_shared, shared = n_shared.reshape(target.shape), shared[:, 0].reshape(target.shape)
        tastes = (shared - n_shared * residual[:, None]) / (n_shared + _ATTRIBUTE_SMOOTHING)
        affinity = tastes.sum(axis=1) / np.maximum((target > PADDING).sum(axis=1), 1)
        known = users != UNKNOWN
        columns = [np.where(known, column, 0.0) for column in (liked, residual, np.log1p(count) / 5.0, affinity)]
        return np.stack(columns, axis=1).astype(np.float32)
