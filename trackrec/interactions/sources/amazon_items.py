"""Reads books from the metadata files of the Amazon Reviews, and repairs their scraped texts."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import polars as pl

from trackrec.interactions.source import clean_text
from trackrec.interactions.sources.lines import JsonFormat, LinePlan, read_lines

Release = Literal["2018", "2023"]

# How scraped author names stand in `brand` (2018) and in `store` (2023).
_PAGE = re.compile(r"^\s*Visit\s+(?:Amazon's|the)\s+(.*?)\s*Page\s*$")
_ROLE = re.compile(r"\s*\(.*$", re.DOTALL)
# Tags that are removed from a title. A title with other tags, scripts or style sheets is a dump of the page.
_INLINE = re.compile(r"</?(?:i|b|em|strong|u|sup|sub|br|p)\s*/?>", re.IGNORECASE)
_DUMP = re.compile(
    r"</?[a-z]+(?:\s|>|/)|<!|getTime|aPageStart|\bvar\s+\w+\s*=|\bfunction\s*\(|\{[^{}]*:[^{}]*;[^{}]*\}", re.IGNORECASE
)
_YEAR = r'"(?:Publisher|Publication date):?"\s*:\s*"(?:[^"\\]|\\.)*?\b(\d{4})\)?\s*"'
_ROOT_CATEGORY = "Books"

_TEXT, _TEXTS = pl.String(), pl.List(pl.String)
_FIELDS: Mapping[Release, Mapping[str, pl.DataType]] = {
    "2018": {"asin": _TEXT, "title": _TEXT, "brand": _TEXT, "category": _TEXTS, "details": _TEXT},
    "2023": {
        "parent_asin": _TEXT,
        "title": _TEXT,
        "author": pl.Struct({"name": pl.String}),
        "store": _TEXT,
        "categories": _TEXTS,
        "details": _TEXT,
    },
}
_FLAGS = ("html_titles", "unescaped_titles", "author_pages")
_SCHEMA = {
    "item_id": pl.Categorical(),
    "title": pl.String(),
    "attributes": pl.List(pl.String),
    "year": pl.Int32(),
    **dict.fromkeys(_FLAGS, pl.Boolean()),
}
ID = r"^[0-9A-Za-z_-]+$"
"""What user and item ids look like: letters, digits, hyphens and underscores."""


class Title(NamedTuple):
    """A cleaned title; empty if the raw one holds none."""

    text: str
    was_html: bool
    had_entities: bool


def clean_title(raw: str | None) -> Title:
    """A scraped title without entities and inline tags; empty for a dump of the page's HTML, CSS or scripts."""
    raw = raw or ""
    text = clean_text(_INLINE.sub("", clean_text(raw)))
    if _DUMP.search(text):
        return Title("", True, False)
    return Title(text, False, html.unescape(raw) != raw)


def clean_author(raw: str | None) -> tuple[str, bool]:
    """An author's name, and whether the text named the author's page: "Visit Amazon's Maya Angelou Page"."""
    text = clean_text(raw or "")
    page = _PAGE.match(text)
    name = page.group(1) if page else text
    return ("" if _DUMP.search(name) else name), page is not None


def read_items(path: Path, release: Release, rated: pl.Series, drop: bool) -> tuple[pl.DataFrame, dict[str, int]]:
    """The items table of the rated books (``item_id`` as a category, ``title`` empty where unknown), and its counts.

    ``attributes`` are the author and the categories below "Books"; ``year`` is the edition's. Of several lines of a
    book the first with a title is used.

    Args:
        path: The metadata file.
        release: Its format.
        rated: The ids to keep, as categories.
        drop: Leave bad lines out.

    Raises:
        DataError: the file can't be read, or there are bad lines and ``drop`` is false.
    """
    fields = _FIELDS[release]
    key = next(iter(fields))
    wanted = pl.col(key).cast(pl.Categorical).is_in(rated.implode())
    plan = LinePlan(
        good=pl.col(key).str.contains(ID),
        wants=f"want a JSON object with an id in {key!r}",
        reduce=lambda frame: _clean_rows(frame.filter(wanted), key),
    )
    lines, bad = read_lines(path, JsonFormat(fields), plan, drop)
    untitled = (pl.col("title") == "").alias("untitled")
    numbered = lines.with_columns(untitled).with_row_index("line")
    items = numbered.sort("untitled", "line").unique("item_id", keep="first", maintain_order=True).sort("line")
    counts = {"bad_item_rows": bad, "duplicate_items": lines.height - items.height}
    counts |= {name: int(items[name].sum()) for name in _FLAGS}
    counts["items_without_title"] = int(items["untitled"].sum())
    return items.select("item_id", "title", "attributes", "year"), counts


def _clean_rows(rows: pl.DataFrame, key: str) -> pl.DataFrame:
    titles = [clean_title(raw) for raw in rows["title"]]
    if "brand" in rows.columns:
        raw_authors = rows["brand"].to_list()
    else:
        # 2023's `store` ("Maya Angelou (Author), ...") replaces a missing name.
        named = [author and author["name"] for author in rows["author"]]
        raw_authors = [name or _ROLE.sub("", store or "") for name, store in zip(named, rows["store"], strict=True)]
    authors = [clean_author(raw) for raw in raw_authors]
    categories = rows["category" if "category" in rows.columns else "categories"]
    columns = {
        "item_id": rows[key],
        "title": [title.text for title in titles],
        "attributes": [_attributes(name, names) for (name, _), names in zip(authors, categories, strict=True)],
        "year": rows["details"].str.extract(_YEAR),
        "html_titles": [title.was_html for title in titles],
        "unescaped_titles": [title.had_entities for title in titles],
        "author_pages": [page for _, page in authors],
    }
    return pl.DataFrame(columns).cast(_SCHEMA)  # type: ignore[arg-type]


def _attributes(author: str, categories: pl.Series | None) -> list[str]:
    names = [clean_text(name) for name in (categories if categories is not None else []) if name]
    kept = [name for name in names if name and name != _ROOT_CATEGORY and not _DUMP.search(name)]
    return list(dict.fromkeys([author, *kept] if author else kept))
