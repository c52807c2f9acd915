"""From (user, item) requests to what a CTR net reads: the door of `trackrec predict` and of a server.

A request is answered as if it came after everything in the tables: the user's recent list is their newest ratings, item
statistics count all train and history rows.

Letters: B requests, H recent list, A attributes, F dense features, D text dim.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from trackrec.ctr.arms import log_odds_columns
from trackrec.ctr.data import TensorLoader
from trackrec.ctr.features import CTRData, Statistics, TextArm, Vocabularies, build_features
from trackrec.interactions import DataError
from trackrec.tables import read_table, stable_hash

FORMAT = 1
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


def request_rows(
    wanted: pl.DataFrame, histories: pl.DataFrame, interactions: pl.DataFrame, recent_len: int
) -> pl.DataFrame:
    """Requests as rows of the samples table, split ``request``: each user's newest ratings, just after the last rating.

    Args:
        wanted: user_id, item_id.
        histories: `newest_histories`.
        interactions: the table.
        recent_len: ratings in a recent list.

    Raises:
        DataError: a user has no history here.
    """
    asked = interactions.join(wanted.select("user_id").unique(), on="user_id", how="semi")
    recent = (
        asked.sort("timestamp", "row")
        .group_by("user_id", maintain_order=True)
        .agg(recent_items=pl.col("item_id").tail(recent_len), recent_ratings=pl.col("rating").tail(recent_len))
    )
    rows = wanted.select("user_id", "item_id").join(histories, on="user_id", how="left", maintain_order="left")
    rows = rows.join(recent, on="user_id", how="left", maintain_order="left")
    strangers = rows.filter(pl.col("history_id").is_null())["user_id"].unique().sort()
    if len(strangers):
        raise DataError(
            f"--requests: {len(strangers)} users have no RecCoT in this run, the first is {strangers[0]!r}. "
            "With loop.texts: all every user of the samples has one."
        )
    now = int(interactions["timestamp"].max() or 0) + 1  # type: ignore[arg-type]
    ids = [stable_hash(REQUEST, number) for number in range(len(rows))]
    return rows.select(
        sample_id=pl.Series(ids, dtype=pl.String),
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


def check_items(wanted: pl.DataFrame, items: pl.DataFrame) -> None:
    """Whether every requested item is known.

    Raises:
        DataError: one isn't.
    """
    unknown = set(wanted["item_id"]) - set(items["item_id"])
    if unknown:
        raise DataError(f"--requests: {len(unknown)} items are not in the items table, the first is {min(unknown)!r}.")


def net_inputs(data: CTRData, arm: str, split: str, rows: slice = slice(None)) -> dict[str, NDArray[Any]]:
    """Rows of a split as a net's inputs, by name: indices as int64, the rest as it is; no label.

    ``user``, ``item`` (B,); ``item_attributes`` (B, A); ``recent_items`` (B, H); ``recent_attributes`` (B, H, A);
    ``recent_ratings`` (B, H) float32; ``recent_mask`` (B, H) bool; ``dense`` (B, F) float32; and where the net has
    them ``user_attributes`` (B, A), ``text`` (B, D) float32, ``text_mask`` (B,) bool.
    """
    loader = TensorLoader(data, split, arm, labels=False)
    batch = loader.rows(torch.arange(loader.n_rows)[rows])
    wide = {name: value.long() if value.dtype == torch.int32 else value for name, value in batch.items()}
    return {name: value.numpy() for name, value in wide.items()}


class RequestEncoder:
    """Turns requests into the inputs of an exported net.

        encoder = RequestEncoder(Path("export"), Path("runs/movielens/data"))
        session = onnxruntime.InferenceSession("export/net.onnx")
        (p,) = session.run(["p"], encoder(["u1"] * 100, candidates))

    The interactions may be newer than the net: a rating that was added stands in its user's recent list. Statistics
    stay those that the net was trained on.

    Args:
        folder: what `trackrec export` wrote.
        tables: the ``data`` directory of a run.

    Raises:
        DataError: the folder is no export, or was written by another version.
    """

    def __init__(self, folder: Path, tables: Path) -> None:
        if not (folder / FEATURES).is_file():
            raise DataError(f"{folder} holds no {FEATURES}. Write one with `trackrec export`.")
        self.features: dict[str, Any] = json.loads((folder / FEATURES).read_text())
        if self.features["format"] != FORMAT:
            raise DataError(f"{folder}: format {self.features['format']}, this trackrec reads {FORMAT}. Export again.")
        self.arm = str(self.features["arm"])
        self.users = pl.read_parquet(folder / USERS)
        ratings = pl.read_parquet(folder / RATINGS)
        self.histories, self.items, self.interactions = (
            read_table(tables, name) for name in ("histories", "items", "interactions")
        )
        self.statistics = Statistics.of(ratings, self.items, self.features["threshold"])

    def __call__(
        self, user_ids: Sequence[str], item_ids: Sequence[str], log_odds: Sequence[float | None] | None = None
    ) -> dict[str, NDArray[Any]]:
        """The inputs of B requests; see `net_inputs`.

        Args:
            user_ids, item_ids: (B,).
            log_odds: (B,) V's log-odds of each request, for a net that reads them; None where there are none.

        Raises:
            DataError: there is no request, a user isn't in the export, or an item isn't in the items table.
        """
        if not len(item_ids) or len(user_ids) != len(item_ids):
            raise DataError(f"requests need as many users as items, got {len(user_ids)} and {len(item_ids)}.")
        wanted = pl.DataFrame({"user_id": list(user_ids), "item_id": list(item_ids)})
        check_items(wanted, self.items)
        width = int(self.features["spec"]["recent_len"])
        rows = request_rows(wanted, self.users.select("user_id", "history_id"), self.interactions, width)
        data = build_features(
            rows,
            self.histories.join(rows.select("history_id"), on="history_id", how="semi", maintain_order="left"),
            self.items,
            None,
            self.interactions,
            threshold=self.features["threshold"],
            recent_len=width,
            vocabularies=Vocabularies(**self.features["vocabularies"]),
            statistics=self.statistics,
        )
        return net_inputs(self._with_arm(data, log_odds), self.arm, REQUEST)

    def _with_arm(self, data: CTRData, log_odds: Sequence[float | None] | None) -> CTRData:
        """The features with what belongs to the arm: V's log-odds as columns, or the text of each history."""
        if self.features["log_odds"]:
            ids = data.sample_ids[REQUEST]
            given = zip(ids, log_odds if log_odds is not None else [None] * len(ids), strict=True)
            columns = log_odds_columns(ids, {key: value for key, value in given if value is not None})
            return replace(data, columns={self.arm: {REQUEST: columns}})
        if log_odds is not None:
            raise DataError(f"the net of arm {self.arm} reads no log-odds: leave them out.")
        if not self.features["text"]:
            return data
        own = self.users.filter(pl.col("history_id").is_in(data.history_ids) & pl.col("text").is_not_null())
        place = {history: row for row, history in enumerate(own["history_id"].to_list())}
        rows = torch.tensor([place.get(history, -1) for history in data.history_ids], dtype=torch.int64)
        # At least one row, for those that point to none: the mask hides what it holds.
        matrix = np.zeros((max(1, len(own)), self.features["text"]["dim"]), np.float32)
        matrix[: len(own)] = own["text"].to_list() or matrix[:0]
        arm = TextArm(torch.from_numpy(matrix), rows, self.features["text"]["gaps"])
        return replace(data, arms={self.arm: arm})
