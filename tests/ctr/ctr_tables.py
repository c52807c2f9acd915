"""The tables of a small set of ratings."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from trackrec.ctr.features.features import CTRData, FeatureBuilder
from trackrec.ctr.features.rating_scale import RatingScale
from trackrec.storage.schemas import to_arrow

HISTORY, RECENT = 3, 4
# (rating - 3) / 2, so that features can be worked out by hand and a changed rating changes no other one's number.
STARS = RatingScale(3.0, (1.0, 5.0), (-1.0, 1.0), liked=0.75)


class Tables(NamedTuple):
    samples: pl.DataFrame
    histories: pl.DataFrame
    items: pl.DataFrame
    interactions: pl.DataFrame

    def features(self, **changes) -> CTRData:
        given = {**self._asdict(), "scale": STARS, **changes}
        return FeatureBuilder(**given)(given["samples"])


def make_tables(ratings: np.ndarray, n_users: int = 12, n_items: int = 15) -> Tables:
    """``ratings`` (n_users, n_items): user u rates item (i + u) % n_items as number i, one user after another.

    Timestamps advance by one every two ratings, so that ties exist. The first three ratings are the history.
    """
    genres = ["Drama", "Comedy", "War", "Noir"]
    log = [
        {"user_id": f"u{u}", "item_id": f"i{(i + u) % n_items}", "rating": float(ratings[u, i])}
        | {"timestamp": 1000 + (i * n_users + u) // 2, "row": i * n_users + u}
        for u in range(n_users)
        for i in range(n_items)
    ]
    histories, samples = [], []
    for u in range(n_users):
        rows = log[u * n_items : (u + 1) * n_items]
        past = rows[:HISTORY]
        histories.append(
            {"history_id": f"h{u}", "user_id": f"u{u}"}
            | {"item_ids": [r["item_id"] for r in past], "ratings": [r["rating"] for r in past]}
        )
        for i, row in enumerate(rows[HISTORY:], start=HISTORY):
            recent = rows[max(0, i - RECENT) : i] if i > HISTORY else []  # one empty list per user
            split = "train" if i < n_items - 4 else "valid" if i < n_items - 2 else "test"
            samples.append(
                {"sample_id": f"s{row['row']}", "user_id": row["user_id"], "item_id": row["item_id"]}
                | {"label": int(row["rating"] > 3), "timestamp": row["timestamp"], "history_id": f"h{u}"}
                | {"recent_items": [r["item_id"] for r in recent], "recent_ratings": [r["rating"] for r in recent]}
                | {"split": split, "use": ""}
            )
    items = [
        {"item_id": f"i{i}", "title": f"Film {i}", "attributes": genres[: i % 4], "year": 2000} for i in range(n_items)
    ]
    frames = {"samples": samples, "histories": histories, "items": items, "interactions": log}
    return Tables(**{name: pl.from_arrow(to_arrow(name, rows)) for name, rows in frames.items()})
