"""Anyone's own log: CSV, TSV or Parquet files, with the names of their columns given in the config."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import polars as pl

from trackrec.interactions.source import DataError, Ratings, RatingSource, choice_error, file_hashes
from trackrec.interactions.sources.columns import ARGS, LIST_SEPARATOR, Columns, check_time_unit
from trackrec.interactions.sources.files import TextFormat, find_files, read_rows
from trackrec.interactions.sources.filters import add_strangers, check_core
from trackrec.interactions.sources.table_rows import (
    explode_impressions,
    filter_ratings,
    item_table,
    own_histories,
    user_table,
)

BadRows = Literal["error", "drop"]
_IMPRESSION = rf"[^{LIST_SEPARATOR}]+-[01]"
_NUMBER = r"-?\d+(?:\.\d*)?"


class Table(RatingSource):
    """Ratings, clicks or plays from files with any column names.

    Each of ``ratings``, ``items`` and ``users`` is a file, a folder of Parquet parts or a glob; what doesn't end in
    .parquet or .pq is text. Exactly one of ``rating``, ``label`` and ``impressions`` says what users thought.

    A CSV with a header::

        dataset:
          class_path: Table
          init_args: {ratings: log.csv, items: books.csv, user: reader, item: isbn, rating: stars, timestamp: when,
                      time_unit: iso, title: name, attributes: genres, year: published, threshold: 3.5}

    MIND (news), from the files that Microsoft publishes; its development part is the test split::

        dataset:
          class_path: Table
          init_args:
            ratings: {train: MINDsmall_train/behaviors.tsv, test: MINDsmall_dev/behaviors.tsv}
            items: MINDsmall_*/news.tsv
            separator: "\\t"
            header: false
            quote: null
            user: "2"
            timestamp: "3"
            time_unit: "%m/%d/%Y %I:%M:%S %p"
            history: "4"
            impressions: "5"
            item_id: "1"
            attributes: ["2", "3"]
            title: "4"
        samples: {protocol: given, per: sample}
        prompts: {item: article, items: articles, user: reader, rated: was shown, like: click, liked: clicked,
                  disliked: skipped}

    Last.fm-360K (music), where more than 50 plays are a like::

        dataset:
          class_path: Table
          init_args: {ratings: usersha1-artmbid-artname-plays.tsv, users: usersha1-profile.tsv, separator: "\\t",
                      header: false, quote: null, user: "1", item: "3", rating: "4", threshold: 50,
                      user_id: "1", user_attributes: ["2", "3", "4"]}
        prompts: {item: artist, items: artists, user: listener, rated: played, like: often play,
                  liked: often played, disliked: seldom played}

    Args:
        ratings: Where the log is. ``{train: ..., valid: ..., test: ...}`` names the files of published splits.
        items: Where titles are; null takes them from the columns of ``ratings``, if it has them.
        users: Where user attributes are; null takes them from the columns of ``ratings``.
        separator: Between the fields of a text file, one character.
        header: Whether text files begin with column names; without, columns are called by their number, from "1".
        quote: The quotation mark of text files; null where quotation marks are part of the text.
        user: Column of the user's id.
        item: Column of the item's id.
        rating: Column of a number, liked above ``threshold``.
        label: Column of 0 or 1.
        impressions: Column of "N1-1 N2-0": the items shown together and whether each was chosen. Takes the place of
            ``item`` and ``label``; the order shown is the order of rows.
        timestamp: Column of the time; null takes the order of the file for it.
        time_unit: Of ``timestamp``: "s", "ms", "us" since 1970, "iso" for ISO-8601 text, or a pattern with % for other
            text. Times without a zone are UTC. Parquet dates and times need none.
        position: Column of the place, from 1, at which a row's item was shown; empty where unknown. It is kept in the
            interactions table, and no prompt or feature reads it.
        split: Column of train, valid or test (or training, validation, val, dev ...), for ``samples.protocol: given``.
        history: Column with a row's own history, oldest first: a Parquet list or item ids between
            ``history_separator``. It takes the place of the history computed from the ratings. A row with an empty or
            null list has no history; ``samples.min_history: 0`` keeps it.
        history_ratings: Column with the ratings of that history. Null: it holds what the user chose. Prompts list its
            items as liked, but no count of likes, like-rate or mean of the user is taken from it.
        history_separator: Between the entries of the two.
        item_id: The item's id in ``items``; null is ``item``.
        title: Column of the title; an item without one is called by its id.
        attributes: Column or columns of genres, categories, tags: Parquet lists, or text between
            ``attribute_separator``.
        attribute_separator: Between the attributes of a text column.
        year: Column of a year or date.
        user_id: The user's id in ``users``; null is ``user``.
        user_attributes: Columns to show of a user; a number is shown with its column's name.
        threshold: A rating above this is a like. Null is 3.0, or 0.5 for labels and impressions.
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
        separator: str = ",",
        header: bool = True,
        quote: str | None = '"',
        user: str = "user_id",
        item: str = "item_id",
        rating: str | None = None,
        label: str | None = None,
        impressions: str | None = None,
        timestamp: str | None = None,
        time_unit: str = "s",
        position: str | None = None,
        split: str | None = None,
        history: str | None = None,
        history_ratings: str | None = None,
        history_separator: str = " ",
        item_id: str | None = None,
        title: str | None = None,
        attributes: str | list[str] | None = None,
        attribute_separator: str = "|",
        year: str | None = None,
        user_id: str | None = None,
        user_attributes: list[str] | None = None,
        threshold: float | None = None,
        bad_rows: BadRows = "error",
        min_user_ratings: int = 1,
        min_item_ratings: int = 1,
    ) -> None:
        sources = {"rating": rating, "label": label, "impressions": impressions}
        given = [key for key, value in sources.items() if value is not None]
        if len(given) != 1:
            raise DataError(
                f"{ARGS}: exactly one of rating, label and impressions must name a column, got {given or 'none'}."
            )
        separator = separator.replace("\\t", "\t")
        for key, text in {"separator": separator, "quote": quote}.items():
            if text is not None and (len(text) != 1 or not text.isascii()):
                raise DataError(f"{ARGS}.{key} must be one character, got {text!r}.")
        for key, text in {"history_separator": history_separator, "attribute_separator": attribute_separator}.items():
            if not text:
                raise DataError(f"{ARGS}.{key} must not be empty.")
        check_time_unit(time_unit)
        if bad_rows not in get_args(BadRows):
            raise choice_error(f"{ARGS}.bad_rows", bad_rows, get_args(BadRows))
        check_core(min_user_ratings, min_item_ratings)
        if position and impressions:
            raise DataError(
                f"{ARGS}.position must be null where {ARGS}.impressions is set, got {position!r}: a row has many."
            )
        if history_ratings and not history:
            raise DataError(f"{ARGS}.history_ratings needs {ARGS}.history, the items that the ratings are of.")
        self.ratings, self.items, self.users = _by_split(ratings, split), items, users
        self.form = TextFormat(separator, header, quote)
        self.user, self.item, self.rating, self.label, self.impressions = user, item, rating, label, impressions
        self.timestamp, self.time_unit, self.split, self.position = timestamp, time_unit, split, position
        self.history, self.history_ratings, self.history_separator = history, history_ratings, history_separator
        self.item_id, self.user_id, self.title, self.year = item_id or item, user_id or user, title, year
        self.attributes = [attributes] if isinstance(attributes, str) else list(attributes or ())
        self.attribute_separator, self.user_attributes = attribute_separator, list(user_attributes or ())
        self.threshold = _threshold(threshold, rating is not None)
        self.drop = bad_rows == "drop"
        self.least = (min_user_ratings, min_item_ratings)

    def read(self) -> Ratings:
        """Everything, with the loss of each filter in ``counts``, in the order in which they apply.

        Raises:
            DataError: files or columns are missing, rows can't be read (unless ``bad_rows`` is drop), or no rating is
                left.
        """
        records, counts = self._records()
        rows = explode_impressions(records) if self.impressions else records
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
        rows = rows.select(*columns, *(["position"] if self.position else []))
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
            frame, dropped = read_rows(path, "ratings", self.form, self._rating_columns, self.drop)
            frames.append(frame if split is None else frame.with_columns(pl.lit(split).alias("split")))
            bad += dropped
        records = pl.concat(frames)
        if records.is_empty():
            raise DataError(f"{ARGS}.ratings: {', '.join(self.ratings.values())} holds no ratings ({bad} bad rows).")
        if self.timestamp is None or self.history is not None:
            records = records.with_row_index("record").cast({"record": pl.Int64})
        if self.timestamp is None:
            records = records.with_columns(pl.col("record").alias("timestamp"))
        return records, {"bad_rows": bad}

    def _rating_columns(self, path: Path, schema: Mapping[str, pl.DataType]) -> Columns:
        columns = Columns(path, schema)
        columns.id("user_id", "user", self.user)
        if self.impressions is not None:
            columns.entries("impressions", "impressions", self.impressions, " ")
            whole = rf"^{_IMPRESSION}(?:{LIST_SEPARATOR}+{_IMPRESSION})*$"
            columns.require(columns.exprs["impressions"].str.contains(whole), "items as N1-1 N2-0")
        else:
            columns.id("item_id", "item", self.item)
        if self.rating is not None:
            columns.number("rating", "rating", self.rating)
        if self.label is not None:
            columns.label("rating", "label", self.label)
        if self.timestamp is not None:
            columns.time("timestamp", "timestamp", self.timestamp, self.time_unit)
        if self.position is not None:
            columns.position("position", "position", self.position)
        if self.split is not None:
            columns.split("split", "split", self.split)
        if self.history is not None:
            columns.entries("history", "history", self.history, self.history_separator)
        if self.history_ratings is not None:
            columns.entries("history_ratings", "history_ratings", self.history_ratings, self.history_separator)
            rates, ids = columns.exprs["history_ratings"], columns.exprs["history"]
            numbers = rates.str.contains(rf"^(?:{_NUMBER}(?:{LIST_SEPARATOR}{_NUMBER})*)?$")
            count = ids.str.count_matches(LIST_SEPARATOR) == rates.str.count_matches(LIST_SEPARATOR)
            columns.require(numbers & count & ((ids == "") == (rates == "")), "a rating for each item of a history")
        if self.items is None:
            self._describe_items(columns)
        if self.users is None:
            self._describe_users(columns)
        return columns

    def _item_columns(self, path: Path, schema: Mapping[str, pl.DataType]) -> Columns:
        columns = Columns(path, schema)
        columns.id("item_id", "item_id", self.item_id)
        self._describe_items(columns)
        return columns

    def _user_columns(self, path: Path, schema: Mapping[str, pl.DataType]) -> Columns:
        columns = Columns(path, schema)
        columns.id("user_id", "user_id", self.user_id)
        self._describe_users(columns)
        return columns

    def _describe_items(self, columns: Columns) -> None:
        if self.title is not None:
            columns.text("title", "title", self.title)
        for number, name in enumerate(self.attributes):
            columns.entries(f"attributes_{number}", "attributes", name, self.attribute_separator)
        if self.year is not None:
            columns.year("year", "year", self.year)

    def _describe_users(self, columns: Columns) -> None:
        for name in self.user_attributes:
            columns.text(f"about {name}", "user_attributes", name)

    def _own_lists(self, records: pl.DataFrame) -> pl.DataFrame | None:
        """Each user's distinct history lists, with the records that have them."""
        if self.history is None:
            return None
        keys = [name for name in ("user_id", "history", "history_ratings") if name in records.columns]
        return records.group_by(keys, maintain_order=True).agg("record")

    def _items(
        self, records: pl.DataFrame, rows: pl.DataFrame, lists: pl.DataFrame | None
    ) -> tuple[pl.DataFrame, dict[str, int]]:
        if self.items is not None:
            read = [
                read_rows(p, "items", self.form, self._item_columns, self.drop) for p in find_files("items", self.items)
            ]
            raw = pl.concat([frame for frame, _ in read])
            return item_table(raw, None, {"bad_item_rows": sum(bad for _, bad in read)})
        ids = [rows["item_id"]]
        if lists is not None:
            ids.append(lists["history"].unique().str.split(LIST_SEPARATOR).explode().rename("item_id"))
        return item_table(records if "item_id" in records.columns else None, pl.concat(ids), {})

    def _users(self, records: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
        if self.users is None:
            return user_table(records, self.user_attributes), {}
        read = [
            read_rows(p, "users", self.form, self._user_columns, self.drop) for p in find_files("users", self.users)
        ]
        raw = pl.concat([frame for frame, _ in read])
        users = user_table(raw, self.user_attributes)
        return users, {"bad_user_rows": sum(bad for _, bad in read), "duplicate_users": raw.height - users.height}


def _by_split(ratings: str | dict[str, str], split: str | None) -> dict[str | None, str]:
    """The places of the log by split, train first; under None where no split is named."""
    if not isinstance(ratings, dict):
        return {None: str(ratings)}
    if split is not None:
        raise DataError(f"{ARGS}.split must be null where {ARGS}.ratings names the files of each split, got {split!r}.")
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
