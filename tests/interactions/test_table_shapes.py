"""`Table` reads every data set of `shapes` from its own files, with the columns named and nothing else done to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shapes import ITEMS, SHAPES, USERS, Rating, key, ratings
from table_files import build

from trackrec.interactions import ItemColumns, RatingColumns, Table, TextFormat, UserColumns

TSV = TextFormat(separator="\t", header=False, quote=None)
ARGUMENTS: dict[str, dict[str, Any]] = {
    "movielens": {
        "items": "movies.csv",
        "columns": RatingColumns("userId", "movieId", rating="rating", timestamp="timestamp"),
        "item_columns": ItemColumns(title="title", attributes="genres"),
    },
    "goodreads": {
        "items": "goodreads_books_children.json.gz",
        "columns": RatingColumns("user_id", "book_id", rating="rating", timestamp="date_added"),
        "item_columns": ItemColumns(title="title", attributes="popular_shelves.name", year="publication_year"),
        "time_unit": "%a %b %d %H:%M:%S %z %Y",
    },
    "steam": {
        "items": "steam_games.json.gz",
        "columns": RatingColumns("username", "product_id", rating="hours", timestamp="date"),
        "item_columns": ItemColumns(id="id", title="app_name", attributes=["genres", "tags"], year="release_date"),
        "time_unit": "iso",
        "threshold": 10.0,
    },
    "amazon 2018": {
        "items": "meta_Video_Games.json.gz",
        "columns": RatingColumns("reviewerID", "asin", rating="overall", timestamp="unixReviewTime"),
        "item_columns": ItemColumns(title="title", attributes=["brand", "category"]),
    },
    "amazon 2023": {
        "items": "meta_Video_Games.jsonl.gz",
        "columns": RatingColumns("user_id", "parent_asin", rating="rating", timestamp="timestamp"),
        "item_columns": ItemColumns(title="title", attributes=["details.Brand", "categories"]),
        "time_unit": "ms",
    },
    "mind": {
        "items": "news.tsv",
        "columns": RatingColumns("2", timestamp="3", history="4", impressions="5"),
        "item_columns": ItemColumns(id="1", title="4", attributes=["2", "3"]),
        "text": TSV,
        "time_unit": "%m/%d/%Y %I:%M:%S %p",
    },
    "lastfm": {
        "users": "usersha1-profile.tsv",
        "columns": RatingColumns("1", "3", rating="4"),
        "user_columns": UserColumns(id="1", attributes=["2", "3", "4"]),
        "text": TSV,
        "threshold": 4.0**3,
    },
    "yelp": {
        "items": "yelp_academic_dataset_business.json",
        "users": "yelp_academic_dataset_user.json",
        "columns": RatingColumns("user_id", "business_id", rating="stars", timestamp="date"),
        "item_columns": ItemColumns(title="name", attributes="categories"),
        "user_columns": UserColumns(attributes=["fans"]),
        "text": TextFormat(attribute_separator=","),
        "time_unit": "iso",
    },
    "book-crossing": {
        "items": "BX-Books.csv",
        "users": "BX-Users.csv",
        "columns": RatingColumns("User-ID", "ISBN", rating="Book-Rating"),
        "item_columns": ItemColumns(title="Book-Title", attributes="Book-Author", year="Year-Of-Publication"),
        "user_columns": UserColumns(attributes=["Location", "Age"]),
        "text": TextFormat(separator=";", escape="\\"),
        "threshold": 6.0,
    },
}
# What the first rating becomes: user, item, rating, time. Steam's times are days; two data sets have none.
ROWS: dict[str, Callable[[Rating], tuple[str, str, float, int]]] = {
    "movielens": lambda row: (str(row.user + 1), str(row.item + 1), row.stars - 0.5, row.second),
    "goodreads": lambda row: (key("user", row.user, 32), str(7_327_624 + row.item), row.stars, row.second),
    "steam": lambda row: (f"Player {row.user} \u2603", str(761140 + row.item), 0.1, row.second // 86400 * 86400),
    "amazon 2018": lambda row: (f"A{row.user:012d}", f"B{row.item:09d}", row.stars, row.second),
    "amazon 2023": lambda row: (f"AE{row.user:026d}", f"B{row.item:09d}", row.stars, row.second),
    "lastfm": lambda row: (key("user", row.user, 40), 'Last Garden "Live" \u2603', 4.0**row.stars, 0),
    "yelp": lambda row: (key("user", row.user, 22), key("item", row.item, 22), row.stars, row.second),
    "book-crossing": lambda row: (str(row.user + 276725), f"{195153448 + row.item:09d}X", 2 * row.stars, 0),
}
FOURTH_ITEM = {
    "movielens": ("Machine, The Last (1973)", ["Mystery", "Science Fiction"], None),
    "goodreads": ("Last Machine (Book 4)", ["to-read", "Mystery", "Science Fiction"], 1973),
    "steam": ("Last Machine\u2122", ["Mystery", "Science Fiction", "Indie"], 1973),
    "amazon 2018": ("Last Machine & more", ["by Some Studio", "Video Games", "Mystery", "Science Fiction"], None),
    "amazon 2023": ("Last Machine", ["Some Studio", "Video Games", "Mystery", "Science Fiction"], None),
    "mind": ("Last Machine", ["mystery", "machine"], None),
    "yelp": ("Last Machine", ["Mystery", "Science Fiction"], None),
    "book-crossing": ('Last Machine: "Mystery" & more; a book', ["José Núñez"], 1973),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_published_data_set_is_read_as_it_is(name: str, tmp_path: Path) -> None:
    log = SHAPES[name](tmp_path)
    files = {key: str(tmp_path / ARGUMENTS[name][key]) for key in ("items", "users") if key in ARGUMENTS[name]}
    read = Table(str(log), **(ARGUMENTS[name] | files)).read()
    assert {count: read.counts[count] for count in ("bad_rows", "ratings", "users", "ratings_of_unknown_items")} == {
        "bad_rows": 0,
        "ratings": 750,
        "users": USERS,
        "ratings_of_unknown_items": 0,
    }
    assert read.items.height == ITEMS
    first = ratings()[0]
    if name in ROWS:
        user, item, stars, second = ROWS[name](first)
        assert read.interactions.row(0) == (user, item, pytest.approx(stars), second, 0)
    if name in FOURTH_ITEM:
        assert read.items.row(3)[1:] == FOURTH_ITEM[name]
    per = {"per": "sample"} if name == "mind" else {}
    samples = build(read, ARGUMENTS[name].get("threshold", 0.5 if name == "mind" else 3.0), **per).samples
    assert 0.1 < samples["label"].mean() < 0.9
