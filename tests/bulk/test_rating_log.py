"""The sorted log: every rating in its user's bucket, once, in time order; unknown items are counted."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from made_bulk import catalogue, ratings

from trackrec.bulk.log import bucket_count, sort_log
from trackrec.interactions import DataError
from trackrec.storage.generations import bucket_of


def test_buckets_hold_every_rating_once_in_time_order(tmp_path: Path) -> None:
    rows = ratings(users=50, each=6)
    shuffled = rows.sample(fraction=1.0, shuffle=True, seed=1)
    log = sort_log(shuffled.iter_slices(70), catalogue()["item_id"], 8, tmp_path / "log")
    frames = [log.bucket(number) for number in range(8)]
    for number, frame in enumerate(frames):
        assert {bucket_of(user, 8) for user in frame["user_id"]} <= {number}
        assert frame.equals(frame.sort("user_id", "timestamp", maintain_order=True))
    together = pl.concat(frames)
    ids = catalogue()["item_id"].gather(together["item"])
    found = together.select("user_id", ids, "rating", "timestamp")
    assert found.sort("user_id", "timestamp", "item_id").equals(rows.sort("user_id", "timestamp", "item_id"))
    assert (log.ratings, log.unknown_items, log.newest) == (300, 0, rows["timestamp"].max())


def test_ratings_of_one_second_stay_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    order = [7, 2, 9, 4, 1]
    rows = pl.DataFrame({"user_id": ["u"] * 5, "item_id": [f"i{item}" for item in order], "rating": [1.0] * 5})
    rows = rows.with_columns(pl.col("rating").cast(pl.Float32), timestamp=pl.lit(5, pl.Int64))
    log = sort_log(rows.iter_slices(2), catalogue()["item_id"], 1, tmp_path / "log")
    assert log.bucket(0)["item"].to_list() == order


def test_of_two_ratings_of_one_item_the_last_counts(tmp_path: Path) -> None:
    rows = pl.DataFrame({"user_id": ["u"] * 3, "item_id": ["i1", "i2", "i1"], "rating": [5.0, 4.0, 1.0]})
    rows = rows.with_columns(pl.col("rating").cast(pl.Float32), timestamp=pl.Series([9, 8, 7]))
    log = sort_log(rows.iter_slices(2), catalogue()["item_id"], 1, tmp_path / "log")
    assert log.bucket(0).select("item", "rating").rows() == [(2, 4.0), (1, 5.0)]


def test_unknown_items_are_counted_and_a_log_of_nothing_else_is_an_error(tmp_path: Path) -> None:
    rows = ratings(users=4, extra=[("u00", "new"), ("u01", "new")])
    log = sort_log(iter([rows]), catalogue()["item_id"], 2, tmp_path / "log")
    assert (log.ratings, log.unknown_items) == (16, 2)
    with pytest.raises(DataError, match="--ratings: none of the 2 ratings is of an item that the run knows"):
        sort_log(iter([rows.tail(2)]), catalogue()["item_id"], 2, tmp_path / "other")


@pytest.mark.parametrize(("users", "expected"), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 4), (4096, 1024)])
def test_the_number_of_buckets_is_a_power_of_two(users: int, expected: int) -> None:
    assert bucket_count(users, 4) == expected
