"""Writes the tables of a bundle: items with their statistics, and the state of every user of the run.

Letters: I items.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trackrec.ctr.arms.assemble import CTRInputs
from trackrec.ctr.features.columns import Catalogue, indices
from trackrec.ctr.features.dense_statistics import EarlierItemRatings, HistoryStatistics, ItemRatingsAt
from trackrec.ctr.features.features import MAX_ATTRIBUTES, Vocabularies
from trackrec.ctr.features.neighbours import Neighbours
from trackrec.ctr.features.past import UNKNOWN, Prior, source_rows
from trackrec.ctr.features.rating_scale import RatingScale
from trackrec.ctr.features.user_statistics import EarlierUserRatings
from trackrec.serving.bundle import ITEM_ARRAYS, ITEMS, NEIGHBOURS, USERS
from trackrec.serving.requests import after_all, newest_lists
from trackrec.serving.tables import neighbour_weights, tastes
from trackrec.serving.users import Taste


class BundleTables:
    """The tables for one moment, just after the last rating.

    Args:
        inputs: the tables on which the ctr stage ran.
        vocabularies: of its nets.
        scale: of the ratings.
        history: which statistics of what the user rated the nets read.
        recent_len: ratings in a recent list.
    """

    def __init__(
        self,
        inputs: CTRInputs,
        vocabularies: Vocabularies,
        scale: RatingScale,
        history: HistoryStatistics,
        recent_len: int,
    ) -> None:
        self._inputs, self._vocabularies, self._history, self._recent_len = inputs, vocabularies, history, recent_len
        self._source = source_rows(inputs.samples, inputs.histories, inputs.interactions)
        self._catalogue = Catalogue.of(inputs.items, vocabularies.items, vocabularies.attributes, MAX_ATTRIBUTES)
        self._ratings = EarlierItemRatings(self._source, inputs.items, scale)
        self._now = after_all(inputs.interactions)

    def everything(self) -> Prior:
        """Count, likes and sum of all ratings that statistics may count: (1,) each."""
        return self._ratings.overall(np.zeros(1, np.int64), self._times(1))

    def write_items(self, work: Path) -> None:
        """Write ``items.parquet``, ``items.npz`` and, where the nets read them, ``neighbours.npy``."""
        rows = np.arange(1 + len(self._inputs.items))
        at = ItemRatingsAt(self._ratings, len(self._inputs.items), self._now)
        statistics, expected = at.statistics(rows, rows), at.expected(rows[:, None].astype(np.int32), rows)[:, 0]
        counted = self._ratings.by_item(rows[1:], self._times(len(rows) - 1))
        kept = np.full(len(rows), -1, np.int64)
        if self._history != "none":
            neighbours = Neighbours(self._source, self._ratings)
            kept = neighbours.kept
            np.save(work / NEIGHBOURS, neighbour_weights(neighbours, self._now))
        np.savez(
            work / ITEM_ARRAYS,
            index=self._catalogue.item_index,
            attributes=self._catalogue.attributes,
            years=self._catalogue.years,
            statistics=statistics,
            expected=expected,
            kept=kept,
        )
        self._inputs.items.select("item_id", "title").with_columns(
            ratings=pl.Series(counted.n.astype(np.int64)),
            likes=pl.Series(counted.likes.astype(np.int64)),
            like_rate=pl.Series(1.0 / (1.0 + np.exp(-statistics[1:, 0].astype(np.float64)))),
        ).write_parquet(work / ITEMS)

    def write_users(self, work: Path, histories: pl.DataFrame, vectors: Mapping[str, NDArray[np.floating[Any]]]) -> int:
        """Write ``users.parquet``; returns its number of rows.

        Args:
            work: the folder.
            histories: user_id, history_id: the history of each user that has one.
            vectors: history -> vector of its text.
        """
        inputs = self._inputs
        users = pl.concat([inputs.interactions["user_id"], inputs.samples["user_id"]]).unique().sort().to_frame()
        published = inputs.samples if inputs.published_lists else None
        recent = newest_lists(users, self._recent_len, inputs.interactions, published)
        lists = inputs.histories.select("history_id", history_items="item_ids", history_ratings="ratings")
        table = users.join(recent, on="user_id", how="left", maintain_order="left")
        table = table.join(histories, on="user_id", how="left", maintain_order="left")
        table = table.join(lists, on="history_id", how="left", maintain_order="left")
        seen = inputs.interactions.group_by("user_id").agg(seen=pl.col("item_id").unique().sort())
        table = table.join(seen, on="user_id", how="left", maintain_order="left")
        texts = [vectors.get(key) for key in table["history_id"].to_list()]
        known = self._tastes(table["user_id"])
        table.select(
            "user_id",
            _without_null("recent_items", pl.String).alias("items"),
            _without_null("recent_ratings", pl.Float32).alias("ratings"),
            _without_null("history_items", pl.String),
            _without_null("history_ratings", pl.Float32),
            _without_null("seen", pl.String),
            index=pl.Series(indices(table["user_id"], self._vocabularies.users)),
            n=pl.Series([taste.n for taste in known], dtype=pl.Float64),
            liked=pl.Series([taste.liked for taste in known], dtype=pl.Float64),
            above=pl.Series([taste.above for taste in known], dtype=pl.Float64),
            taste_attributes=pl.Series([taste.attributes for taste in known], dtype=pl.List(pl.Int32)),
            taste_counts=pl.Series([taste.counts for taste in known], dtype=pl.List(pl.Float64)),
            taste_sums=pl.Series([taste.sums for taste in known], dtype=pl.List(pl.Float64)),
            text=pl.Series([None if text is None else text.tolist() for text in texts], dtype=pl.List(pl.Float32)),
        ).write_parquet(work / USERS)
        return len(table)

    def _tastes(self, users: pl.Series) -> list[Taste]:
        names = self._vocabularies.users
        if self._history != "all" or not names:
            return [Taste()] * len(users)
        codes, attributes = indices(self._source["user_id"], names), self._catalogue.attributes
        earlier = EarlierUserRatings(self._source, codes, self._ratings, attributes)
        by_index = tastes(earlier, 2 + len(names), self._now)
        return [Taste() if index == UNKNOWN else by_index[index] for index in indices(users, names).tolist()]

    def _times(self, n: int) -> NDArray[np.int64]:
        return np.full(n, self._now, np.int64)


def _without_null(name: str, kind: type[pl.DataType]) -> pl.Expr:
    return pl.col(name).fill_null(pl.lit([], dtype=pl.List(kind)))
