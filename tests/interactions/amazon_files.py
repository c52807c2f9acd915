"""A few reviews and books in every layout of the Amazon Reviews."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from trackrec.interactions import AmazonBook

# reader, book, stars, second
REVIEWS = [
    ("A1READER", "0001713353", 5.0, 1252800000),
    ("A1READER", "0002005395", 3.0, 1252886400),
    ("A2READER", "0001713353", 4.0, 1252972800),
    ("A2READER", "B000XYZ123", 5.0, 1253059200),
    ("A2READER", "0002005395", 1.0, 1253145600),
    ("A1READER", "B000XYZ123", 2.0, 1253232000),
]
DUMP = "var aPageStart = (new Date()).getTime();\nvar ue_t0=ue_t0||+new Date();"


def review(release: str, user: str, item: str, stars: Any, second: Any, **more: Any) -> dict[str, Any]:
    if release == "2018":
        record = {"overall": stars, "verified": True, "reviewTime": "09 13, 2009", "reviewerID": user, "asin": item}
        return record | {"style": {"Format:": " Hardcover"}, "reviewText": "Good.", "unixReviewTime": second} | more
    record = {"rating": stars, "title": "Good", "text": "Good.", "images": [], "asin": "OTHER", "parent_asin": item}
    return record | {"user_id": user, "timestamp": second * 1000 + 123, "verified_purchase": True} | more


def meta(release: str, item: str, title: Any, author: str = "", categories: Any = (), **more: Any) -> dict[str, Any]:
    if release == "2018":
        record = {
            "category": list(categories),
            "tech1": "",
            "title": title,
            "brand": author,
            "also_buy": ["0000000000"],
        }
        return record | {"rank": "1,349,781 in Books (", "main_cat": "Books", "asin": item, "details": {}} | more
    named = {"avatar": "https://x", "name": author, "about": ['A "writer".']} if author else None
    record = {"main_category": "Books", "title": title, "author": named, "store": None, "categories": list(categories)}
    return record | {"features": [], "price": None, "details": {}, "parent_asin": item, "bought_together": None} | more


def catalogue(release: str) -> list[dict[str, Any]]:
    return [
        meta(
            release, "0001713353", "The King, the Mice &amp; the Cheese", "Nancy Gurney", ["Books", "Children's Books"]
        ),
        meta(release, "0002005395", "Bread", "", []),
        meta(release, "B000XYZ123", "Salt", "Mark Kurlansky", ["Books", "History", "Food &amp; Wine"]),
        meta(release, "0009999999", "Never reviewed", "", ["Books"]),
    ]


def lines(records: list[Any]) -> bytes:
    """One a line; what is a string already stays as it is."""
    return "".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in records).encode()


def write(root: Path, name: str, data: bytes) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return root


def shelf(root: Path, release: str = "2018", reviews: list[Any] | None = None, books: list[Any] | None = None) -> Path:
    """A folder with the review and metadata files of a release."""
    kind = "json.gz" if release == "2018" else "jsonl.gz"
    found = [review(release, *each) for each in REVIEWS] if reviews is None else reviews
    write(root, f"Books.{kind}", lines(found))
    return write(root, f"meta_Books.{kind}", lines(catalogue(release) if books is None else books))


def amazon(root: Path, **arguments: Any) -> AmazonBook:
    return AmazonBook(root, **({"min_user_ratings": 1, "min_item_ratings": 1} | arguments))
