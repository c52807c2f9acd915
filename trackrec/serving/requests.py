"""Turns (user, item) requests into the inputs of a CTR net, for `trackrec predict` and for a server.

A request is answered as if it came after everything in the tables: the user's recent list is their newest ratings (or,
where the dataset publishes the lists, the newest of those), item statistics count all train and history rows.

Letters: B requests, H recent list, A attributes, F dense features, D text dim.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from trackrec.ctr.arms.log_odds import log_odds_columns
from trackrec.ctr.features.columns import Catalogue, Rows, Statistics, columns_of, indices
from trackrec.ctr.features.dense_statistics import dense_names
from trackrec.ctr.features.features import CTRData, FeatureSpec, TextArm, Vocabularies
from trackrec.ctr.features.past import flatten
from trackrec.ctr.features.rating_scale import RatingScale
from trackrec.ctr.training.data import TensorLoader
from trackrec.interactions import DataError
from trackrec.storage.parts import read_table

FORMAT = 3
NET, FEATURES, USERS, RATINGS = "net.onnx", "features.json", "users.parquet", "ratings.parquet"
REQUEST = "request"


def newest_histories(samples: pl.DataFrame, answerable: set[str]) -> pl.DataFrame:
    """Each user's newest history among the answerable ones: user_id, history_id."""
    return (
        samples.filter(pl.col("history_id").is_in(list(answerable)))
        .sort("timestamp", "sample_id")
        .group_by("user_id", maintain_order=True)
        .agg(pl.col("history_id").last())
    )


def with_cold_users(
    newest: pl.DataFrame, asked: pl.Series, histories: pl.DataFrame, answerable: set[str]
) -> pl.DataFrame:
    """`newest_histories`, and an empty history for each asked user who has none: whose it is, no feature tells.

    A user whose history only lacks a text stays without one.

    Args:
        newest: user_id, history_id.
        asked: user ids of the requests.
        histories: the table.
        answerable: histories that the nets can read.

    Raises:
        DataError: there is such a user, and no answerable history is empty.
    """
    is_empty = pl.col("item_ids").list.len() == 0
    known = pl.concat([newest["user_id"], histories.filter(~is_empty)["user_id"]])
    new = asked.filter(~asked.is_in(known.implode())).unique().sort()
    if not len(new):
        return newest
    empty = histories.filter(is_empty, pl.col("history_id").is_in(list(answerable)))
    if not len(empty):
        raise no_cold_users("--unknown cold")
    return pl.concat([newest, new.to_frame("user_id").with_columns(history_id=pl.lit(empty["history_id"].min()))])


def no_cold_users(key: str) -> DataError:
    """The error for a run whose nets have seen no row without a history."""
    return DataError(
        f"{key}: the nets of this run have seen no user without a history. Set samples.min_history to 0 and run "
        "`trackrec fit`."
    )


def newest_lists(
    users: pl.DataFrame, recent_len: int, interactions: pl.DataFrame, published: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Each user's recent list after the last rating: user_id, recent_items, recent_ratings.

    Args:
        users: user_id.
        recent_len: ratings in a list.
        interactions: the table, whose newest ratings make the lists.
        published: samples with the lists that the dataset publishes, if it does: each user's newest list is taken
            instead. It lacks what the user was shown since.
    """
    log, order = (interactions, "row") if published is None else (published, "sample_id")
    rows = log.join(users.select("user_id").unique(), on="user_id", how="semi").sort("timestamp", order)
    if published is None:
        lists = {
            "recent_items": pl.col("item_id").tail(recent_len),
            "recent_ratings": pl.col("rating").tail(recent_len),
        }
    else:
        items = pl.col("recent_items").cast(pl.List(pl.String))
        lists = {"recent_items": items.list.tail(recent_len).last()}
        lists["recent_ratings"] = pl.col("recent_ratings").list.tail(recent_len).last()
    return rows.group_by("user_id", maintain_order=True).agg(**lists)


def after_all(interactions: pl.DataFrame) -> int:
    """The moment of a request: a second after the last rating."""
    return int(interactions["timestamp"].max() or 0) + 1  # type: ignore[arg-type]


def request_rows(
    wanted: pl.DataFrame,
    histories: pl.DataFrame,
    interactions: pl.DataFrame,
    recent_len: int,
    published: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Requests as rows of the samples table, split ``request``: each user's newest ratings, just after the last rating.

    Args:
        wanted: user_id, item_id.
        histories: `newest_histories`.
        interactions: the table.
        recent_len: ratings in a recent list.
        published: samples with lists that the dataset publishes; None where they are made of the ratings.

    Raises:
        DataError: a user has no history here.
    """
    recent = newest_lists(wanted, recent_len, interactions, published)
    rows = wanted.select("user_id", "item_id").join(histories, on="user_id", how="left", maintain_order="left")
    rows = rows.join(recent, on="user_id", how="left", maintain_order="left")
    check_users(rows.filter(pl.col("history_id").is_null())["user_id"])
    now = after_all(interactions)
    return rows.select(
        sample_id=pl.format("request-{}", pl.int_range(pl.len())),
        user_id="user_id",
        item_id="item_id",
        label=pl.lit(0, pl.Int8),
        timestamp=pl.lit(now, pl.Int64),
        history_id="history_id",
        recent_items="recent_items",
        recent_ratings="recent_ratings",
        split=pl.lit(REQUEST),
        use=pl.lit(""),
    )


def check_users(strangers: Iterable[str]) -> None:
    """Check that there is no requested user without a history in this run.

    Raises:
        DataError: there is one; the message names the first.
    """
    if missing := sorted(set(strangers)):
        raise DataError(
            f"requests: {len(missing)} users have no history or no RecCoT in this run, the first is {missing[0]!r}. "
            "With loop.texts: all every user of the samples has a RecCoT. `trackrec predict --unknown empty` leaves "
            "their p empty."
        )


def check_items(asked: Iterable[str], known: Container[str]) -> None:
    """Check that every requested item is known.

    Raises:
        DataError: one isn't.
    """
    if unknown := {item for item in asked if item not in known}:
        raise DataError(
            f"requests: {len(unknown)} items are not in the items table, the first is {min(unknown)!r}. "
            "`trackrec predict --unknown empty` leaves their p empty."
        )


def net_inputs(data: CTRData, arm: str, split: str, rows: slice = slice(None)) -> dict[str, NDArray[Any]]:
    """Rows of a split as a net's inputs, by name: indices as int64, the rest as it is; no label.

    ``user``, ``item`` (B,); ``item_attributes`` (B, A); ``recent_items`` (B, H); ``recent_attributes`` (B, H, A);
    ``recent_ratings`` (B, H) float32; ``recent_mask`` (B, H) bool; ``dense`` (B, F) float32; and where the net has
    them ``text`` (B, D) float32, ``text_mask`` (B,) bool.
    """
    loader = TensorLoader(data, split, arm, labels=False)
    batch = loader.rows(torch.arange(loader.n_rows)[rows])
    wide = {name: value.long() if value.dtype == torch.int32 else value for name, value in batch.items()}
    return {name: value.numpy() for name, value in wide.items()}


def _with_histories(users: pl.DataFrame, histories: pl.DataFrame, tables: Path) -> pl.DataFrame:
    """Exported users with their histories; with the newest one where new ratings have replaced the exported one."""
    changed = users.join(histories, on="history_id", how="anti", maintain_order="left")
    if len(changed):
        samples = read_table(tables, "samples", columns=("sample_id", "user_id", "history_id", "timestamp"))
        newest = newest_histories(samples.join(changed, on="user_id", how="semi"), set(histories["history_id"]))
        renewed = changed.drop("history_id").join(newest, on="user_id", how="inner", maintain_order="left")
        unchanged = users.join(histories, on="history_id", how="semi", maintain_order="left")
        users = pl.concat([unchanged, renewed.select(unchanged.columns)])
    return users.join(histories.drop("user_id"), on="history_id", how="inner", maintain_order="left")


class RequestEncoder:
    """Turns requests into the inputs of an exported net.

        encoder = RequestEncoder(Path("export"), Path("runs/movielens/data"))
        session = onnxruntime.InferenceSession("export/net.onnx")
        (p,) = session.run(["p"], encoder(["u1"] * 100, candidates))

    The interactions may be newer than the net: an added rating appears in its user's recent list. Statistics stay those
    that the net was trained on.

    Args:
        folder: what `trackrec export` wrote.
        tables: the ``data`` directory of a run.
        unknown: ``error``, or ``cold``: users without a history are answered as the run's cold users
            (``samples.min_history: 0``).

    Raises:
        DataError: the folder is no export, or was written by another version; for ``cold``, the run has no cold user.
    """

    def __init__(self, folder: Path, tables: Path, unknown: Literal["error", "cold"] = "error") -> None:
        if not (folder / FEATURES).is_file():
            raise DataError(f"{folder} holds no {FEATURES}. Write one with `trackrec export`.")
        self.features: dict[str, Any] = json.loads((folder / FEATURES).read_text())
        if self.features["format"] != FORMAT:
            raise DataError(f"{folder}: format {self.features['format']}, this trackrec reads {FORMAT}. Export again.")
        self.arm = str(self.features["arm"])
        histories, items, interactions = (read_table(tables, name) for name in ("histories", "items", "interactions"))
        users = _with_histories(pl.read_parquet(folder / USERS), histories, tables)
        self.cold_user: int | None = None
        self.not_cold: set[str] = set()
        if unknown == "cold":
            is_empty = pl.col("item_ids").list.len() == 0
            cold = users.filter(is_empty).head(1)
            if not len(cold):
                raise no_cold_users("unknown='cold'")
            self.cold_user, self.not_cold = len(users), set(histories.filter(~is_empty)["user_id"])
            users = pl.concat([users, cold.with_columns(user_id=pl.lit(None, pl.String))])
        self.scale = scale = RatingScale.saved(self.features["scale"])
        vocabularies = Vocabularies.of(self.features["vocabularies"])
        self.now = after_all(interactions)
        max_attributes = int(self.features["max_attributes"])
        self.catalogue = Catalogue.of(items, vocabularies.items, vocabularies.attributes, max_attributes)
        self.statistics = Statistics.of(
            pl.read_parquet(folder / RATINGS),
            items,
            scale,
            self.features["history_statistics"],
            vocabularies.users,
            self.catalogue.attributes,
        ).at(self.now, len(items))
        self.item_rows = {item: row for row, item in enumerate(items["item_id"].to_list(), start=1)}
        self.user_numbers = {user: number for number, user in enumerate(users["user_id"].to_list())}
        self.user_indices = indices(users["user_id"], vocabularies.users)
        self.width = int(self.features["spec"]["recent_len"])
        published = read_table(tables, "samples") if self.features["published_lists"] else None
        newest = newest_lists(users, self.width, interactions, published)
        recent = users.select("user_id").join(newest, on="user_id", how="left", maintain_order="left")
        self.recent = self.catalogue.lists(recent["recent_items"], recent["recent_ratings"], scale)
        self.rated = self.catalogue.lists(users["item_ids"], users["ratings"], scale)
        self.texts, self.text_rows = self._texts(users["text"])
        self._data = self._without_rows(vocabularies)

    def __call__(
        self, user_ids: Sequence[str], item_ids: Sequence[str], log_odds: Sequence[float | None] | None = None
    ) -> dict[str, NDArray[Any]]:
        """The inputs of B requests; see `net_inputs`.

        Args:
            user_ids, item_ids: (B,).
            log_odds: (B,) the validator's log-odds, for a net that reads them; None where a request has none.

        Raises:
            DataError: there is no request, a user isn't in the export, or an item isn't in the items table.
        """
        if not len(item_ids) or len(user_ids) != len(item_ids):
            raise DataError(f"requests need as many users as items, got {len(user_ids)} and {len(item_ids)}.")
        check_items(item_ids, self.item_rows)
        strangers = {user for user in user_ids if user not in self.user_numbers}
        check_users(strangers if self.cold_user is None else strangers & self.not_cold)
        users = np.array([self.user_numbers.get(user, self.cold_user) for user in user_ids], np.int64)
        distinct_users, list_of_row = np.unique(users, return_inverse=True)
        rows = Rows(
            users=self.user_indices[users],
            items=np.array([self.item_rows[item] for item in item_ids], np.int64),
            histories=list_of_row,
            times=np.full(len(users), self.now, np.int64),
            recent=self.recent.take(distinct_users).padded(self.width).take(list_of_row),
            rated=self.rated.take(distinct_users).padded(),
        )
        columns = columns_of(rows, self.catalogue, self.statistics)
        data = replace(self._data, splits={REQUEST: {name: torch.from_numpy(v) for name, v in columns.items()}})
        return net_inputs(self._with_arm(data, distinct_users, log_odds), self.arm, REQUEST)

    def _without_rows(self, vocabularies: Vocabularies) -> CTRData:
        """The features that all requests share."""
        n_dense = len(dense_names(self.features["history_statistics"]))
        without_arm = {"text_dim": 0, "text_use": "dense", "text_gaps": False, "n_dense": n_dense}
        return CTRData(
            spec=FeatureSpec.of({**self.features["spec"], **without_arm}),
            scale=self.scale,
            splits={},
            item_attributes=torch.from_numpy(self.catalogue.attributes),
            sample_ids={},
            user_ids={},
            history_ids=[],
            history_users=[],
            vocabularies=vocabularies,
        )

    def _texts(self, texts: pl.Series) -> tuple[Tensor, NDArray[np.int64]]:
        """(n_texts, D) vectors, and the vector of each user, -1 where there is none."""
        has = texts.is_not_null().to_numpy()
        rows = np.where(has, np.cumsum(has) - 1, -1)
        # At least one row, because row -1 is read too, before the mask hides it.
        matrix = np.zeros((max(1, int(has.sum())), (self.features["text"] or {"dim": 0})["dim"]), np.float32)
        if has.any():
            matrix[:] = flatten(texts).to_numpy().reshape(matrix.shape)
        return torch.from_numpy(matrix), rows

    def _with_arm(self, data: CTRData, users: NDArray[np.int64], log_odds: Sequence[float | None] | None) -> CTRData:
        """The features with those of the arm: the validator's log-odds as columns, or the texts of ``users``."""
        if self.features["log_odds"]:
            n_rows = len(data.splits[REQUEST]["item"])
            values = [None] * n_rows if log_odds is None else log_odds
            by_row = dict(zip(map(str, range(n_rows)), values, strict=True))
            columns = log_odds_columns(list(by_row), {key: value for key, value in by_row.items() if value is not None})
            return replace(data, columns={self.arm: {REQUEST: columns}})
        if log_odds is not None:
            raise DataError(f"the net of arm {self.arm} reads no log-odds: leave them out.")
        if not self.features["text"]:
            return data
        arm = TextArm(self.texts, torch.from_numpy(self.text_rows[users]), self.features["text"]["gaps"])
        return replace(data, arms={self.arm: arm})
