"""The ratings of all users, sorted into buckets of users on disk, so that one bucket at a time is in memory.

Each batch of ratings becomes one Arrow file with one record batch per bucket; reading a bucket reads its record batch
of every file through a memory map. It is the first half of an external sort, and it needs no second half.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from trackrec.interactions import DataError
from trackrec.storage.atomic import write_atomic
from trackrec.storage.generations import bucket_of

_SCHEMA = pa.schema(
    [("user_id", pa.string()), ("item", pa.int32()), ("rating", pa.float32()), ("timestamp", pa.int64())]
)
_INFO = "log.json"


class RatingLog:
    """A log that `sort_log` has written.

    Args:
        folder: where.
    """

    def __init__(self, folder: Path) -> None:
        info = json.loads((folder / _INFO).read_text())
        self.buckets: int = info["buckets"]
        self.ratings: int = info["ratings"]
        self.unknown_items: int = info["unknown_items"]
        self.newest: int = info["newest"]
        self.folder = folder

    @cached_property
    def _files(self) -> list[pa.ipc.RecordBatchFileReader]:
        return [pa.ipc.open_file(pa.memory_map(str(path))) for path in sorted(self.folder.glob("batch-*.arrow"))]

    def bucket(self, number: int) -> pl.DataFrame:
        """The ratings of one bucket's users: user_id, item (row of the items table), rating, timestamp.

        Sorted by user and time; ratings of one second stay in the order in which they were given. Of several ratings of
        one item by one user the last counts, as in the sources.
        """
        batches = [file.get_batch(number) for file in self._files]
        frame = pl.from_arrow(pa.Table.from_batches(batches, schema=_SCHEMA))
        assert isinstance(frame, pl.DataFrame)
        ordered = frame.sort("user_id", "timestamp", maintain_order=True)
        return ordered.unique(["user_id", "item"], keep="last", maintain_order=True)


def bucket_count(users: int, part_users: int) -> int:
    """The least power of two of buckets that hold about so many users each."""
    return 1 << max(0, -(-users // part_users) - 1).bit_length()


def sort_log(batches: Iterable[pl.DataFrame], items: pl.Series, buckets: int, folder: Path) -> RatingLog:
    """Write ratings as a `RatingLog`; ratings of unknown items are counted and left out.

    Args:
        batches: user_id, item_id, rating, timestamp; in an order that breaks the ties of the timestamps.
        items: ids of the items table, in its order.
        buckets: how many, a power of two.
        folder: where to; a log that stands there is used.

    Raises:
        DataError: there is no rating of a known item.
    """
    if (folder / _INFO).exists():
        return RatingLog(folder)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = pl.DataFrame({"item_id": items, "item": np.arange(len(items), dtype=np.int32)})
    ratings = unknown = newest = 0
    for count, batch in enumerate(batches):
        known = batch.join(numbers, on="item_id", how="inner", maintain_order="left")
        unknown += len(batch) - len(known)
        ratings += len(known)
        newest = max(newest, int(known["timestamp"].max() or 0))  # type: ignore[arg-type]
        _write_batch(known, buckets, folder / f"batch-{count:05d}.arrow")
    if not ratings:
        raise DataError(f"--ratings: none of the {unknown:,} ratings is of an item that the run knows.")
    info = {"buckets": buckets, "ratings": ratings, "unknown_items": unknown, "newest": newest}
    write_atomic(folder / _INFO, json.dumps(info))
    return RatingLog(folder)


def _write_batch(rows: pl.DataFrame, buckets: int, path: Path) -> None:
    """One record batch per bucket, in their order."""
    users = rows["user_id"].unique()
    of_user = pl.DataFrame(
        {"user_id": users, "bucket": np.array([bucket_of(user, buckets) for user in users], np.int32)},
        schema={"user_id": pl.String, "bucket": pl.Int32},
    )
    rows = rows.join(of_user, on="user_id", how="left", maintain_order="left").sort("bucket", maintain_order=True)
    ends = np.searchsorted(rows["bucket"].to_numpy(), np.arange(buckets), side="right")
    table = rows.select(_SCHEMA.names).to_arrow().cast(_SCHEMA).combine_chunks()
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, _SCHEMA) as writer:
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            piece = table.slice(start, end - start).to_batches()
            writer.write_batch(piece[0] if piece else _empty())


def _empty() -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=_SCHEMA)
