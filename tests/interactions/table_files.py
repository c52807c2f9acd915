"""What the tests of `Table` share: files put in place, and results as plain tuples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings

from trackrec.interactions import Ratings, SampleRules, SampleTables, build_samples

quick = settings(
    max_examples=25, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def put(path: Path, text: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def triples(ratings: Ratings) -> list[tuple]:
    return ratings.interactions.select("user_id", "item_id", "rating").rows()


def build(ratings: Ratings, threshold: float = 3.0, **rules: Any) -> SampleTables:
    return build_samples(ratings, SampleRules(**rules), threshold, seed=0)


def seen(tables: SampleTables) -> list[tuple]:
    """(user, target, label, split, history, recent list) of every sample, in the table's order."""
    joined = tables.samples.join(tables.histories, on="history_id", how="left", maintain_order="left")
    columns = ["user_id", "item_id", "label", "split", "item_ids", "recent_items"]
    return [
        tuple(" ".join(cell) if isinstance(cell, list) else cell for cell in row)
        for row in joined.select(columns).rows()
    ]
