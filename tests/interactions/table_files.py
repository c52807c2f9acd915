"""What the tests of `Table` share: files put in place, rows to write there, and results as plain tuples."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from trackrec.interactions import (
    ItemColumns,
    RatingColumns,
    Ratings,
    SampleRules,
    SampleTables,
    Table,
    build_samples,
)

LOG = "reader,isbn,stars,when\nann,b1,5,30\nbob,b2,2,20\nann,b2,3.5,10\n"
BOOKS = 'isbn,name,genres,published\nb1,"Bread, &amp;  Butter",Food|Home,1999\nb2,Salt,,\nb3,Unread,Sea,2001-05-06\n'
BOOK_COLUMNS = RatingColumns(user="reader", item="isbn", rating="stars", timestamp="when")
ABOUT = ItemColumns(title="name", attributes="genres", year="published")
HEAD = "reader,isbn,stars,when\n"

quick = settings(
    max_examples=25, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def put(path: Path, text: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def books(tmp_path: Path, log: str | bytes = LOG, columns: Mapping[str, str] | None = None, **arguments: Any) -> Table:
    """The log with `BOOK_COLUMNS`, and with further ``columns``."""
    where = put(tmp_path / "log.csv", log)
    return Table(where, columns=replace(BOOK_COLUMNS, **(columns or {})), **arguments)


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


names = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp")), min_size=1, max_size=6
).filter(lambda name: not re.search(r"(?i)^(nan|null|none|<na>|#?n/a|\\n)$|^[+-]?\d.*[.e]", name))
"""Ids that stay as they are: no words for nothing, no 1.0, no 1e+5."""

valid_rows = st.lists(
    st.tuples(names, names, st.floats(-1e6, 1e6, width=32), st.integers(0, 10**10), st.text("a \"',;|\n", max_size=6)),
    min_size=1, max_size=12, unique_by=lambda row: row[:2],
)  # fmt: skip


def written(rows: list, separator: str, quoting: Any = csv.QUOTE_MINIMAL, end: str = "\n") -> tuple[str, list[int]]:
    """The file, and the line on which each row begins."""
    file, lines = io.StringIO(), []
    writer = csv.writer(file, delimiter=separator, quoting=quoting, lineterminator=end)
    for row in [("user_id", "item_id", "stars", "at", "note"), *rows]:
        lines.append(file.getvalue().count("\n") + 1)
        writer.writerow(row)
    return file.getvalue(), lines[1:]
