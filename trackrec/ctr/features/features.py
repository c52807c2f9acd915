"""Turns the tables into tensors: ids, attributes, the recent list and dense user × item statistics.

Letters: N rows, H recent list, A attributes of an item, F dense features. One padding convention holds everywhere:
lists are left aligned, oldest first, index 0 and mask False fill the right. Index 1 is "unknown".

No feature of a row depends on the row's own label, and no statistic over users counts a valid or test row. A user's
recent list holds all their earlier ratings, including those of valid and test rows, as a server would have them.

A user who is evaluated may have no train row, so no id and no statistics of their train rows. Nets learn such users
from train rows whose user is hidden, the same share as among the validation rows. Where whole users are split no user
is known, and nets read neither ids nor such statistics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from trackrec.ctr.features.columns import Catalogue, Rows, Statistics, columns_of, indices
from trackrec.ctr.features.dense_statistics import ITEM_NAMES, HistoryStatistics, dense_names
from trackrec.ctr.features.past import FIRST, UNKNOWN, encode, flatten, source_rows
from trackrec.ctr.features.rating_scale import RatingScale
from trackrec.runtime.errors import SettingError
from trackrec.storage.atomic import stable_hash

MAX_ATTRIBUTES = 8


@dataclass(frozen=True)
class FeatureSpec:
    """Sizes a net is built from.

    Attributes:
        n_items: item indices, padding and unknown included.
        n_users: user indices, likewise.
        n_attributes: item attribute indices, likewise.
        recent_len: H, width of the recent list.
        n_dense: F, number of dense features.
        text_dim: width of the text vector; 0 means there is no text.
        text_use: how the text enters: ``dense``, its connector's output beside the dense features (the paper's way), or
            ``query``, as the query of an attention over history and target.
        text_gaps: rows may lack a text; the batch then says which (``text_mask``).
    """

    n_items: int
    n_users: int
    n_attributes: int
    recent_len: int
    n_dense: int
    text_dim: int = 0
    text_use: Literal["dense", "query"] = "dense"
    text_gaps: bool = False

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> FeatureSpec:
        """A saved one; those of an earlier version hold ``n_user_attributes`` too, which was always 0."""
        return cls(**{name: value for name, value in saved.items() if name != "n_user_attributes"})


@dataclass(frozen=True)
class Vocabularies:
    """What the indices mean: entry i of a list has index i + 2. Built from train rows, sorted.

    ``users`` is empty where no user of the validation rows has a train row.
    """

    items: list[str]
    users: list[str]
    attributes: list[str]

    @classmethod
    def of(cls, saved: Mapping[str, list[str]]) -> Vocabularies:
        """Saved ones; those of an earlier version hold ``user_attributes`` too, always without any."""
        return cls(saved["items"], saved["users"], saved["attributes"])


@dataclass(frozen=True)
class TextArm:
    """Text vectors of one arm.

    Attributes:
        matrix: (n_texts, D) float32.
        rows: (n_histories,) the text of each history; -1 where there is none.
        gaps: samples may refer to a history without a text.
    """

    matrix: Tensor
    rows: Tensor
    gaps: bool = False


@dataclass(frozen=True)
class CTRData:
    """Everything a CTR net reads, in memory.

    Attributes:
        spec: sizes, without text.
        scale: of the ratings.
        splits: split -> tensors with one row per sample, in the samples' order: ``user``, ``item``, ``item_row``,
            ``history`` (N,) int; ``recent_items``, ``recent_rows`` (N, H) int; ``recent_ratings`` (N, H) float, 0 at
            the threshold; ``recent_mask`` (N, H) bool; ``dense`` (N, F) float; ``label`` (N,) float.
        item_attributes: (n_item_rows, A) attribute indices, padded with 0; read through ``item_row``/``recent_rows``.
        sample_ids: split -> ids in row order.
        user_ids: split -> user of each row.
        history_ids: what ``history`` points to.
        history_users: the user of each history.
        vocabularies: what the indices mean.
        arms: text vectors by arm; see :mod:`trackrec.ctr.arms.texts`.
        columns: dense columns that belong to one arm: arm -> split -> (N, columns).
        without_statistics: arms that read of ``dense`` only what belongs to the item.
    """

    spec: FeatureSpec
    scale: RatingScale
    splits: dict[str, dict[str, Tensor]]
    item_attributes: Tensor
    sample_ids: dict[str, list[str]]
    user_ids: dict[str, list[str]]
    history_ids: list[str]
    history_users: list[str]
    vocabularies: Vocabularies
    arms: dict[str, TextArm] = field(default_factory=dict)
    columns: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    without_statistics: frozenset[str] = frozenset()

    def spec_for(self, arm: str) -> FeatureSpec:
        """The spec with the text width of ``arm`` (0 for ``none``) and the width of its dense features.

        Raises:
            KeyError: no such arm was attached.
        """
        known = ["none", *self.arms, *self.columns, *self.without_statistics]
        if arm not in known:
            raise KeyError(f"arm must be one of {known}, got {arm!r}. Attach its texts first.")
        spec = replace(self.spec, n_dense=len(ITEM_NAMES)) if arm in self.without_statistics else self.spec
        if arm in self.columns:
            width = next(iter(self.columns[arm].values())).shape[1]
            return replace(spec, n_dense=spec.n_dense + width)
        if arm not in self.arms:
            return spec
        texts = self.arms[arm]
        return replace(spec, text_dim=int(texts.matrix.shape[1]), text_gaps=texts.gaps)

    def dense(self, split: str, arm: str) -> Tensor:
        """(N, F): the dense features that an arm reads, its own columns last."""
        dense = self.splits[split]["dense"]
        if arm in self.without_statistics:
            dense = dense[:, : len(ITEM_NAMES)]
        return torch.cat([dense, self.columns[arm][split]], dim=1) if arm in self.columns else dense


class FeatureBuilder:
    """Turns rows of the samples table into tensors. What all rows share is computed once, for any number of calls.

    Args:
        samples, histories, items, interactions: the tables of :mod:`trackrec.storage.schemas`.
        threshold: a rating above it is a like.
        recent_len: H; longer recent lists keep their last H. None: the longest list.
        history_statistics: which statistics of what the user rated the dense features hold; see
            `trackrec.ctr.features.dense_statistics.dense_names`.
        scale: of the ratings, of an earlier builder; None: that of the ratings which statistics may count.
        max_attributes: A at most; further attributes of an item are left out.
        vocabularies: of an earlier builder with the same train rows, for further rows to predict. None: built from the
            train rows.
        whole: the whole samples table where ``samples`` are a part of it: statistics count the train rows of all
            users, and no held-out row. None: ``samples``.
        now: the timestamp that all rows will have, so that item statistics are one table; None: any timestamps.

    Raises:
        SettingError: there are no train rows.
        ValueError: an item or history isn't in its table.
    """

    def __init__(
        self,
        samples: pl.DataFrame,
        histories: pl.DataFrame,
        items: pl.DataFrame,
        interactions: pl.DataFrame,
        threshold: float = 3.0,
        recent_len: int | None = None,
        history_statistics: HistoryStatistics = "all",
        scale: RatingScale | None = None,
        max_attributes: int = MAX_ATTRIBUTES,
        vocabularies: Vocabularies | None = None,
        whole: pl.DataFrame | None = None,
        now: int | None = None,
    ) -> None:
        train = samples.filter(pl.col("split") == "train")
        if not len(train):
            raise SettingError(f"samples hold no train rows, only {samples['split'].unique().to_list()}.")
        self.vocabularies = vocab = vocabularies or _vocabularies(samples, items)
        width = max(1, int(recent_len or samples["recent_items"].list.len().max() or 1))  # type: ignore[arg-type]
        source = source_rows(samples if whole is None else whole, histories, interactions)
        self.scale = scale or RatingScale.of(source["rating"].to_numpy(), threshold)
        self._histories = histories
        self._catalogue = catalogue = Catalogue.of(items, vocab.items, vocab.attributes, max_attributes)
        self._rated = catalogue.lists(histories["item_ids"], histories["ratings"], self.scale).padded()
        every_moment = Statistics.of(source, items, self.scale, history_statistics, vocab.users, catalogue.attributes)
        self._statistics = every_moment if now is None else every_moment.at(now, len(items))
        self._unknown_share = _unknown_share(samples, vocab.users) if vocab.users else 0.0
        self.spec = FeatureSpec(
            n_items=FIRST + len(vocab.items),
            n_users=FIRST + len(vocab.users),
            n_attributes=FIRST + len(vocab.attributes),
            recent_len=width,
            n_dense=len(dense_names(history_statistics)),
        )

    def __call__(self, samples: pl.DataFrame) -> CTRData:
        """Every feature of rows of the samples table, per split."""
        return self._data(samples, self.columns(samples))

    def whose(self, samples: pl.DataFrame) -> CTRData:
        """The rows with the column ``history`` only, which is all that attaching arms needs."""
        return self._data(samples, {"history": self._history(samples)})

    def columns(self, samples: pl.DataFrame) -> dict[str, NDArray[Any]]:
        """The columns of `CTRData.splits` for rows of any split, in their order."""
        recent = samples.select(pl.col("recent_items", "recent_ratings").list.tail(self.spec.recent_len))
        rated = self._catalogue.lists(recent["recent_items"], recent["recent_ratings"], self.scale)
        users = indices(samples["user_id"], self.vocabularies.users)
        rows = Rows(
            users=np.where(_hidden(samples, self._unknown_share), UNKNOWN, users).astype(np.int32),
            items=1 + encode(samples["item_id"].alias("item_id of samples"), self._catalogue.ids),
            histories=self._history(samples),
            times=samples["timestamp"].to_numpy(),
            recent=rated.padded(self.spec.recent_len),
            rated=self._rated,
        )
        columns = columns_of(rows, self._catalogue, self._statistics)
        columns["label"] = samples["label"].to_numpy().astype(np.float32)
        return columns

    def _history(self, samples: pl.DataFrame) -> NDArray[np.int64]:
        return encode(samples["history_id"].alias("history_id of samples"), self._histories["history_id"])

    def _data(self, samples: pl.DataFrame, columns: dict[str, NDArray[Any]]) -> CTRData:
        names = samples["split"].unique(maintain_order=True).to_list()
        rows = {name: np.flatnonzero((samples["split"] == name).to_numpy()) for name in names}
        return CTRData(
            spec=self.spec,
            scale=self.scale,
            splits={
                name: {key: torch.from_numpy(value[index]) for key, value in columns.items()}
                for name, index in rows.items()
            },
            item_attributes=torch.from_numpy(self._catalogue.attributes),
            sample_ids={name: samples["sample_id"][index].to_list() for name, index in rows.items()},
            user_ids={name: samples["user_id"][index].to_list() for name, index in rows.items()},
            history_ids=self._histories["history_id"].to_list(),
            history_users=self._histories["user_id"].to_list(),
            vocabularies=self.vocabularies,
        )


def _unknown_share(samples: pl.DataFrame, users: list[str]) -> float:
    """Share of the validation rows whose user isn't among some users; 0 without validation rows."""
    codes = indices(samples.filter(pl.col("split") == "valid")["user_id"], users)
    return float((codes == UNKNOWN).mean()) if len(codes) else 0.0


def _hidden(samples: pl.DataFrame, share: float) -> NDArray[np.bool_]:
    """Which rows are trained as a new user's: about that share of the train rows, by hash."""
    train = (samples["split"] == "train").to_numpy()
    if share:
        limit, ids = share * 16**8, samples["sample_id"].filter(pl.Series(train))
        train[train] = [int(stable_hash("new user", key, digits=8), 16) < limit for key in ids]
    return train if share else np.zeros_like(train)


def _vocabularies(samples: pl.DataFrame, items: pl.DataFrame) -> Vocabularies:
    train = samples.filter(pl.col("split") == "train")
    seen = pl.concat([train["item_id"], flatten(train["recent_items"])]).unique().sort()
    attributes = flatten(items.filter(pl.col("item_id").is_in(seen.implode()))["attributes"])
    people = train["user_id"].unique().sort().to_list()
    names = attributes.drop_nulls().unique().sort()
    return Vocabularies(seen.to_list(), [] if _unknown_share(samples, people) == 1 else people, names.to_list())
