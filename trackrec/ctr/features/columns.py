"""Turns numbered rows into the columns that a CTR net reads, for training, `predict` and a server alike.

Letters: N rows, L lists, H list of rated items, A attributes of an item, F dense features, I items.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trackrec.ctr.features.dense_statistics import (
    EarlierItemRatings,
    HistoryStatistics,
    ItemRatings,
    ItemRatingsAt,
    item_years,
    list_statistics,
)
from trackrec.ctr.features.neighbours import Neighbours, joined
from trackrec.ctr.features.past import FIRST, UNKNOWN, RaggedLists, RatedLists, encode, flatten, pad
from trackrec.ctr.features.rating_scale import RatingScale
from trackrec.ctr.features.user_statistics import EarlierUserRatings

Int = NDArray[np.int64]


class Catalogue(NamedTuple):
    """The items table as arrays. Row r is the table's row r - 1; row 0 is padding.

    Attributes:
        ids: (I,) the items.
        item_index: (1 + I,) index in the vocabulary.
        attributes: (1 + I, A) attribute indices.
        years: (1 + I,) of :func:`trackrec.ctr.features.dense_statistics.item_years`.
    """

    ids: pl.Series
    item_index: NDArray[np.int32]
    attributes: NDArray[np.int32]
    years: NDArray[np.float32]

    @classmethod
    def of(cls, items: pl.DataFrame, vocabulary: list[str], attributes: list[str], max_attributes: int) -> Catalogue:
        """From the items table and the vocabularies of items and attributes."""
        index = np.concatenate([np.zeros(1, np.int32), indices(items["item_id"], vocabulary)])
        table = attribute_table(items["attributes"], attributes, max_attributes)
        return cls(items["item_id"], index, table, item_years(items))

    def lists(self, items: pl.Series, ratings: pl.Series, scale: RatingScale) -> RaggedLists:
        """Lists of rated items as numbers; a null list is read as an empty one, a null rating as none.

        Raises:
            ValueError: an item isn't in the table.
        """
        rows = 1 + encode(flatten(items).alias(f"items of {items.name}"), self.ids)
        scaled = scale(flatten(ratings).to_numpy())
        rated = ~np.isnan(scaled)
        numbers: NDArray[np.float32] = np.where(rated, scaled, scale.liked).astype(np.float32)
        lengths = items.list.len().fill_null(0).to_numpy().astype(np.int64)
        return RaggedLists(rows.astype(np.int32), numbers, rated, np.append(0, np.cumsum(lengths)))


class Statistics(NamedTuple):
    """Statistics of items, of pairs of items and of users, over the ratings that statistics may count.

    Attributes:
        history: which statistics of what the user rated there are; without any, ``neighbours`` and ``users`` are None.
    """

    history: HistoryStatistics
    items: ItemRatings
    neighbours: Neighbours | None = None
    users: EarlierUserRatings | None = None

    @classmethod
    def of(
        cls,
        source: pl.DataFrame,
        items: pl.DataFrame,
        scale: RatingScale,
        history: HistoryStatistics,
        users: list[str],
        attributes: NDArray[np.int32],
    ) -> Statistics:
        """For rows of any timestamp.

        Args:
            source: rows of `trackrec.ctr.features.past.source_rows`.
            items: the items table.
            scale: of the ratings.
            history: which statistics of what the user rated.
            users: the vocabulary of users.
            attributes: of the `Catalogue`.
        """
        ratings = EarlierItemRatings(source, items, scale)
        if history == "none":
            return cls(history, ratings)
        neighbours = Neighbours(source, ratings)
        if history == "recent":
            return cls(history, ratings, neighbours)
        return cls(
            history,
            ratings,
            neighbours,
            EarlierUserRatings(source, indices(source["user_id"], users), ratings, attributes),
        )

    def at(self, time: int, n_items: int) -> Statistics:
        """The same for rows of one timestamp, computed in advance for the ``n_items`` of the items table."""
        if self.neighbours is not None:
            self.neighbours.prepare(time)
        return self._replace(items=ItemRatingsAt(self.items, n_items, time))


class Rows(NamedTuple):
    """N rows as numbers.

    Attributes:
        users: (N,) index in the vocabulary; the statistics of users belong to it too.
        items: (N,) row of the target in the catalogue.
        histories: (N,) index of the row's history in ``rated``.
        times: (N,) seconds.
        recent: (N, H) recent lists.
        rated: (L, H') histories.
    """

    users: NDArray[np.int32]
    items: Int
    histories: Int
    times: Int
    recent: RatedLists
    rated: RatedLists


def columns_of(rows: Rows, catalogue: Catalogue, statistics: Statistics) -> dict[str, NDArray[Any]]:
    """The columns of `trackrec.ctr.features.features.CTRData` that don't depend on labels."""
    return {
        "user": rows.users,
        "item": catalogue.item_index[rows.items],
        "item_row": rows.items.astype(np.int32),
        "history": rows.histories.astype(np.int32),
        "recent_items": catalogue.item_index[rows.recent.rows],
        "recent_rows": rows.recent.rows,
        "recent_ratings": rows.recent.ratings,
        "recent_mask": rows.recent.mask,
        "dense": _dense(rows, catalogue, statistics),
    }


def _dense(rows: Rows, catalogue: Catalogue, statistics: Statistics) -> NDArray[np.float32]:
    """(N, F) in the order of `trackrec.ctr.features.dense_statistics.dense_names`."""
    table, years, ratings = catalogue.attributes, catalogue.years, statistics.items
    target, times = rows.items, rows.times

    def rated_before(index: Int) -> RatedLists:
        recent = rows.recent.take(index)
        return joined(rows.rated.take(rows.histories[index]), recent) if statistics.history == "all" else recent

    parts = [ratings.statistics(target, times), np.nan_to_num(years[target])[:, None]]
    if statistics.history != "none":
        parts.append(list_statistics(table, target, times, rows.recent, ratings, years, None))
    if statistics.history == "all":
        parts.append(list_statistics(table, target, times, rows.rated, ratings, years, rows.histories))
    if statistics.users is not None:
        parts.append(statistics.users.statistics(rows.users, target, times))
    if statistics.neighbours is not None:
        parts.append(statistics.neighbours.scores(times, target, rated_before, ratings)[:, None])
    return np.concatenate(parts, axis=1)


def indices(values: pl.Series, vocabulary: list[str]) -> NDArray[np.int32]:
    """The index of each value; `UNKNOWN` for a value that the vocabulary doesn't hold."""
    known = pl.Series(vocabulary, dtype=pl.String)
    return encode(values, known, first=FIRST, default=UNKNOWN).astype(np.int32)


def attribute_table(lists: pl.Series, vocabulary: list[str], max_attributes: int) -> NDArray[np.int32]:
    """(1 + rows, A) attribute indices; row 0 is padding."""
    lists = lists.fill_null(pl.Series([[]], dtype=pl.List(pl.String))).list.unique(maintain_order=True)
    lists = lists.list.drop_nulls().list.head(max_attributes)
    lengths = lists.list.len().to_numpy().astype(np.int64)
    width = max(1, int(lengths.max(initial=0)))
    table = pad(indices(flatten(lists), vocabulary), lengths, width).values
    return np.concatenate([np.zeros((1, width), np.int32), table])
