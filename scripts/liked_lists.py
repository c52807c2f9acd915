"""MovieLens ratings in the form of published splits that give each row a list of liked items (TALLRec's, CoLLM's).

    python scripts/liked_lists.py --root data/ml-100k --output data/liked_lists

``ratings.parquet`` has one row per rating: user, item, label (above the threshold), timestamp, split by time
(80/10/10) and ``history``, the items that the user had liked before it, oldest first, without ratings. Rows whose user
had liked nothing yet have an empty list. ``items.parquet`` has titles, genres and years. Read them with::

    dataset: {class_path: Table, init_args: {ratings: data/liked_lists/ratings.parquet,
              items: data/liked_lists/items.parquet,
              columns: {label: label, timestamp: timestamp, split: split, history: history},
              item_columns: {title: title, attributes: attributes, year: year}}}
    samples: {protocol: given, per: sample}
"""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl

from trackrec.interactions import MovieLens


def liked_lists(interactions: pl.DataFrame, threshold: float, longest: int) -> pl.DataFrame:
    """The rows of ``ratings.parquet``.

    Args:
        interactions: the interactions table.
        threshold: a rating above it is a like.
        longest: entries of a list at most, the newest.
    """
    rows = interactions.sort("timestamp", "row").with_columns(label=(pl.col("rating") > threshold).cast(pl.Int8))
    likes = rows.filter(pl.col("label") == 1).select("user_id", "timestamp", pl.col("item_id").alias("liked"))
    history = (
        rows.select("row", "user_id", "timestamp")
        .join(likes, on="user_id", suffix="_liked")
        .filter(pl.col("timestamp_liked") < pl.col("timestamp"))
        .group_by("row")
        .agg(pl.col("liked").sort_by("timestamp_liked", maintain_order=True).tail(longest).alias("history"))
    )
    place = pl.int_range(pl.len()) / pl.len()
    split = pl.when(place < 0.8).then(pl.lit("train")).when(place < 0.9).then(pl.lit("valid")).otherwise(pl.lit("test"))
    rows = rows.join(history, on="row", how="left", maintain_order="left").with_columns(
        split=split, history=pl.col("history").fill_null([])
    )
    return rows.select("user_id", "item_id", "label", "timestamp", "split", "history")


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("data/ml-100k"))
    parser.add_argument("--output", type=Path, default=Path("data/liked_lists"))
    parser.add_argument("--longest", type=int, default=30)
    args = parser.parse_args()
    source = MovieLens(root=str(args.root))
    ratings = source.read()
    args.output.mkdir(parents=True, exist_ok=True)
    rows = liked_lists(ratings.interactions, source.threshold, args.longest)
    rows.write_parquet(args.output / "ratings.parquet")
    ratings.items.write_parquet(args.output / "items.parquet")
    empty = rows.filter(pl.col("history").list.len() == 0).height
    print(f"{rows.height:,} rows, {empty:,} of them with an empty list, {ratings.items.height:,} items: {args.output}")


if __name__ == "__main__":
    main()
