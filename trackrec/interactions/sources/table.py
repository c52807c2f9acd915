"""Anyone's own log: CSV, TSV, JSON lines or Parquet files, with the names of their columns given in the config."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import polars as pl

from trackrec.interactions.source import DataError, Ratings, RatingSource, choice_error, file_hashes
from trackrec.interactions.sources.columns import ARGS, LIST_SEPARATOR, Columns, check_time_unit
from trackrec.interactions.sources.files import find_files, read_rows
from trackrec.interactions.sources.filters import add_strangers, check_core
from trackrec.interactions.sources.table_keys import ItemColumns, RatingColumns, UserColumns
from trackrec.interactions.sources.table_rows import (
    explode_impressions,
    filter_ratings,
    item_table,
    own_histories,
    user_table,
)
from trackrec.interactions.sources.text_format import TextFormat

BadRows = Literal["error", "drop"]
_IMPRESSION = rf"[^{LIST_SEPARATOR}]+-[01]"
_NUMBER = r"-?\d+(?:\.\d*)?"


class Table(RatingSource):
    """Ratings, clicks or plays from files with any column names.

    Each of ``ratings``, ``items`` and ``users`` is a file, a folder of Parquet parts or a glob; what doesn't end in
    .parquet or .pq is text, compressed (.gz, .bz2, .xz, .zst, or .zip with one file) or not: fields between separators,
    or one object per line where the name ends in .json, .jsonl or .ndjson. Exactly one of ``rating``, ``label`` and
    ``impressions`` says what users thought.

    A CSV with a header::

        dataset:
          class_path: Table
          init_args:
            ratings: log.csv
            items: books.csv
            columns: {user: reader, item: isbn, rating: stars, timestamp: when}
            item_columns: {title: name, attributes: genres, year: published}
            threshold: 3.5
            time_unit: iso

    MIND (news), from the files that Microsoft publishes; its development part is the test split::

        dataset:
          class_path: Table
          init_args:
            ratings: {train: MINDsmall_train/behaviors.tsv, test: MINDsmall_dev/behaviors.tsv}
            items: MINDsmall_*/news.tsv
            columns: {user: "2", timestamp: "3", history: "4", impressions: "5"}
            item_columns: {id: "1", attributes: ["2", "3"], title: "4"}
            text: {separator: "\\t", header: false, quote: null}
            time_unit: "%m/%d/%Y %I:%M:%S %p"
        samples: {protocol: given, per: sample}
        prompts: {item: article, items: articles, user: reader, rated: was shown, like: click, liked: clicked,
                  disliked: skipped}

    Last.fm-360K (music), where more than 50 plays are a like::

        dataset:
          class_path: Table
          init_args:
            ratings: usersha1-artmbid-artname-plays.tsv
            users: usersha1-profile.tsv
            columns: {user: "1", item: "3", rating: "4"}
            user_columns: {id: "1", attributes: ["2", "3", "4"]}
            text: {separator: "\\t", header: false, quote: null}
            threshold: 50
        prompts: {item: artist, items: artists, user: listener, rated: played, like: often play,
                  liked: often played, disliked: seldom played}

    Args:
        ratings: Where the log is. ``{train: ..., valid: ..., test: ...}`` names the files of published splits.
        items: Where titles are; null takes them from the columns of ``ratings``, if it has them.
        users: Where user attributes are; null takes them from the columns of ``ratings``.
        columns: Which column of ``ratings`` holds what.
        item_columns: Which columns tell of items.
        user_columns: Which columns tell of users.
        text: How text files are written; Parquet files don't need it.
        threshold: A rating above this is a like. Null is 3.0, or 0.5 for labels and impressions.
        time_unit: Of ``columns.timestamp``: "s", "ms", "us" since 1970, "iso" for ISO-8601 text, or a pattern with %
            for other text. Times without a zone are UTC. Parquet dates and times need none.
        bad_rows: "error" names the first rows that can't be read; "drop" leaves bad rows out and counts them.
        min_user_ratings: Users with fewer ratings are left out, and then items, until nothing changes (k-core).
        min_item_ratings: Likewise for items.

    Raises:
        DataError: an argument is out of range, or they don't fit each other.
    """

    def __init__(
        self,
        ratings: str | dict[str, str],
        items: str | None = None,
        users: str | None = None,
        columns: RatingColumns = RatingColumns(),
        item_columns: ItemColumns = ItemColumns(),
        user_columns: UserColumns = UserColumns(),
        text: TextFormat = TextFormat(),
        threshold: float | None = None,
        time_unit: str = "s",
        bad_rows: BadRows = "error",
        min_user_ratings: int = 1,
        min_item_ratings: int = 1,
    ) -> None:
        columns.check()
        check_time_unit(time_unit)
        if bad_rows not in get_args(BadRows):
            raise choice_error(f"{ARGS}.bad_rows", bad_rows, get_args(BadRows))
        check_core(min_user_ratings, min_item_ratings)
        self.ratings, self.items, self.users = _by_split(ratings, columns.split), items, users
        self.columns, self.item_columns, self.user_columns, self.text = columns, item_columns, user_columns, text
        self.threshold = _threshold(threshold, columns.rating is not None)
        self.time_unit, self.drop = time_unit, bad_rows == "drop"
        self.least = (min_user_ratings, min_item_ratings)

    def read(self) -> Ratings:
        """Everything, with the loss of each filter in ``counts``, in the order in which they apply.

        Raises:
            DataError: files or columns are missing, rows can't be read (unless ``bad_rows`` is drop), or no rating is
                left.
        """
        records, counts = self._records()
        rows = explode_impressions(records) if self.columns.impressions else records
        wanted = ["user_id", "item_id", "rating", "timestamp", "split", "record", "position"]
        rows = rows.select(pl.col(name) for name in wanted if name in rows.columns)
        rows = rows.with_row_index("row").cast({"row": pl.Int64})
        lists = self._own_lists(records)
        items, counts_items = self._items(records, rows, lists)
        users, bad_users = self._users(records)
        del records
        counts |= {"ratings_read": rows.height} | counts_items | bad_users
        rows, lost = filter_ratings(rows, items, *self.least, str(self.items))
        counts |= lost
        if self.users is None:
            users = users.join(rows, on="user_id", how="semi", maintain_order="left")
        if self.items is None and lists is None:
            items = items.join(rows, on="item_id", how="semi", maintain_order="left")
        everyone = add_strangers(users, rows)
        counts["users_without_row"] = everyone.height - users.height
        own = None
        if lists is not None:
            own, counts["history_items_unknown"] = own_histories(lists, rows, items)
        splits = rows.select("row", "split") if "split" in rows.columns else None
        counts |= {"items": items.height, "users": everyone.height, "ratings": rows.height}
        columns = ["user_id", "item_id", "rating", "timestamp", "row"]
        rows = rows.select(*columns, *(["position"] if self.columns.position else []))
        return Ratings(items, everyone, rows, counts, splits, own)

    def content_key(self) -> dict[str, str]:
        """See `RatingSource.content_key`. Names are relative to the folder that the files share."""
        paths = {path.absolute() for _, path in self._rating_files()}
        for key, where in {"items": self.items, "users": self.users}.items():
            paths |= {path.absolute() for path in find_files(key, where)} if where else set()
        return file_hashes(Path(os.path.commonpath([path.parent for path in paths])), paths)

    def _rating_files(self) -> list[tuple[str | None, Path]]:
        key = "ratings" if None in self.ratings else "ratings.{}"
        return [(split, path) for split, at in self.ratings.items() for path in find_files(key.format(split), at)]

    def _records(self) -> tuple[pl.DataFrame, dict[str, int]]:
        """The log as it stands in the files, numbered by ``record``."""
        frames, bad = [], 0
        for split, path in self._rating_files():
            frame, dropped = read_rows(path, "ratings", self.text, self._rating_columns, self.drop)
            frames.append(frame if split is None else frame.with_columns(pl.lit(split).alias("split")))
            bad += dropped
        records = pl.concat(frames)
        if records.is_empty():
            raise DataError(f"{ARGS}.ratings: {', '.join(self.ratings.values())} holds no ratings ({bad} bad rows).")
        if self.columns.timestamp is None or self.columns.history is not None:
            records = records.with_row_index("record").cast({"record": pl.Int64})
        if self.columns.timestamp is None:
            records = records.with_columns(pl.col("record").alias("timestamp"))
        return records, {"bad_rows": bad}

    def _rating_columns(self, path: Path, schema: Mapping[str, pl.DataType]) -> Columns:
        columns, names = Columns(path, schema), self.columns
        columns.id("user_id", "columns.user", names.user)
        if names.impressions is not None:
            columns.entries("impressions", "columns.impressions", names.impressions, " ")
            whole = rf"^{_IMPRESSION}(?:{LIST_SEPARATOR}+{_IMPRESSION})*$"
            columns.require(columns.exprs["impressions"].str.contains(whole), "items as N1-1 N2-0")
        else:
            columns.id("item_id", "columns.item", names.item)
        if names.rating is not None:
            columns.number("rating", "columns.rating", names.rating)
        if names.label is not None:
            columns.label("rating", "columns.label", names.label)
        if names.timestamp is not None:
            columns.time("timestamp", "columns.timestamp", names.timestamp, self.time_unit)
        if names.position is not None:
            columns.position("position", "columns.position", names.position)
        if names.split is not None:
            columns.split("split", "columns.split", names.split)
        between = self.text.history_separator
        if names.history is not None:
            columns.entries("history", "columns.history", names.history, between)
        if names.history_ratings is not None:
            columns.entries("history_ratings", "columns.history_ratings", names.history_ratings, between)
            rates, ids = columns.exprs["history_ratings"], columns.exprs["history"]
            numbers = rates.str.contains(rf"^(?:{_NUMBER}(?:{LIST_SEPARATOR}{_NUMBER})*)?$")
            count = ids.str.count_matches(LIST_SEPARATOR) == rates.str.count_matches(LIST_SEPARATOR)
            columns.require(numbers & count & ((ids == "") == (rates == "")), "a rating for each item of a history")
        if self.items is None:
            self._describe_items(columns)
        if self.users is None:
            self._describe_users(columns)
        return columns

    def _item_file(self, path: Path, schema: Mapping[str, pl.DataType]) -> Columns:
        columns, own = Columns(path, schema), self.item_columns.id
        columns.id("item_id", *(("columns.item", self.columns.item) if own is None else ("item_columns.id", own)))
        self._describe_items(columns)
        return columns

    def _user_file(self, path: Path, schema: Mapping[str, pl.DataType]) -> Columns:
        columns, own = Columns(path, schema), self.user_columns.id
        columns.id("user_id", *(("columns.user", self.columns.user) if own is None else ("user_columns.id", own)))
        self._describe_users(columns)
        return columns

    def _describe_items(self, columns: Columns) -> None:
        names = self.item_columns
        if names.title is not None:
            columns.text("title", "item_columns.title", names.title)
        for number, name in enumerate(names.attribute_names):
            columns.entries(f"attributes_{number}", "item_columns.attributes", name, self.text.attribute_separator)
        if names.year is not None:
            columns.year("year", "item_columns.year", names.year)

    def _describe_users(self, columns: Columns) -> None:
        for name in self.user_columns.attributes or ():
            columns.text(f"about {name}", "user_columns.attributes", name)

    def _own_lists(self, records: pl.DataFrame) -> pl.DataFrame | None:
        """Each user's distinct history lists, with the records that have them."""
        if self.columns.history is None:
            return None
        keys = [name for name in ("user_id", "history", "history_ratings") if name in records.columns]
        return records.group_by(keys, maintain_order=True).agg("record")

    def _items(
        self, records: pl.DataFrame, rows: pl.DataFrame, lists: pl.DataFrame | None
    ) -> tuple[pl.DataFrame, dict[str, int]]:
        if self.items is not None:
            read = [
                read_rows(p, "items", self.text, self._item_file, self.drop) for p in find_files("items", self.items)
            ]
            raw = pl.concat([frame for frame, _ in read])
            return item_table(raw, None, {"bad_item_rows": sum(bad for _, bad in read)})
        ids = [rows["item_id"]]
        if lists is not None:
            ids.append(lists["history"].unique().str.split(LIST_SEPARATOR).explode().rename("item_id"))
        return item_table(records if "item_id" in records.columns else None, pl.concat(ids), {})

    def _users(self, records: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
        if self.users is None:
            return user_table(records, self.user_columns.attributes or []), {}
        read = [read_rows(p, "users", self.text, self._user_file, self.drop) for p in find_files("users", self.users)]
        raw = pl.concat([frame for frame, _ in read])
        users = user_table(raw, self.user_columns.attributes or [])
        return users, {"bad_user_rows": sum(bad for _, bad in read), "duplicate_users": raw.height - users.height}


def _by_split(ratings: str | dict[str, str], split: str | None) -> dict[str | None, str]:
    """The places of the log by split, train first; under None where no split is named."""
    if not isinstance(ratings, dict):
        return {None: str(ratings)}
    if split is not None:
        raise DataError(
            f"{ARGS}.columns.split must be null where {ARGS}.ratings names the files of each split, got {split!r}."
        )
    unknown = [key for key in ratings if key not in ("train", "valid", "test")]
    if unknown or not ratings:
        raise choice_error(f"{ARGS}.ratings: a split", unknown[0] if unknown else "", ("train", "valid", "test"))
    return {name: str(ratings[name]) for name in ("train", "valid", "test") if name in ratings}


def _threshold(threshold: float | None, rated: bool) -> float:
    if threshold is None:
        return 3.0 if rated else 0.5
    if not math.isfinite(threshold) or not (rated or 0 <= threshold < 1):
        allowed = "a finite number" if rated else "in [0, 1) for labels"
        raise DataError(f"{ARGS}.threshold must be {allowed}, got {threshold}. Ratings above it are likes.")
    return float(threshold)
