"""Builds the tables of `Table` from its columns: items, users, filtered ratings, published history lists."""

from __future__ import annotations

import polars as pl

from trackrec.interactions.ids import id_column
from trackrec.interactions.source import DataError, clean_text, shown
from trackrec.interactions.sources.cells import LIST_SEPARATOR, NOTHING
from trackrec.interactions.sources.columns import ARGS
from trackrec.interactions.sources.filters import filter_known, keep_known

_MOST = 0.5
"""Above this share a join that finds no partner is taken for a mistake in the settings."""


def explode_impressions(records: pl.DataFrame) -> pl.DataFrame:
    """One row per item shown, in the order shown; the rating is 1 for a chosen item and 0 for the others."""
    lists = records.drop("history", "history_ratings", strict=False).with_columns(
        pl.col("impressions").str.split(LIST_SEPARATOR)
    )
    rows = lists.explode("impressions").filter(pl.col("impressions") != "")
    return rows.with_columns(
        id_column(pl.col("impressions").str.head(-2), pl.String()).value.alias("item_id"),
        pl.col("impressions").str.tail(1).cast(pl.Float32).alias("rating"),
    ).drop("impressions")


def item_table(
    raw: pl.DataFrame | None, ids: pl.Series | None, counts: dict[str, int]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The items table, and the counts, now with repeated rows (the first is used) and items without a title.

    Args:
        raw: item_id and, where the file has them, title, year and attributes_0, attributes_1 ...
        ids: The items of the table, if not those of ``raw``; of an item's rows in ``raw`` the first titled one is used.
        counts: The counts so far.
    """
    if raw is None:
        raw = pl.DataFrame(schema={"item_id": pl.String})
    columns = [name for name in raw.columns if name in ("title", "year") or name.startswith("attributes_")]
    rows = raw.select("item_id", *columns)
    if ids is None:
        items = rows.unique("item_id", keep="first", maintain_order=True)
        counts["duplicate_items"] = rows.height - items.height
    else:
        items = ids.unique(maintain_order=True).to_frame().filter(pl.col("item_id") != "")
        if columns:
            titled = rows.filter(pl.col("title") != "") if "title" in columns else rows
            firsts = titled.unique("item_id", keep="first")
            items = items.join(firsts, on="item_id", how="left", maintain_order="left")
    item_ids = items["item_id"].to_list()
    texts = items["title"].fill_null("").to_list() if "title" in columns else [""] * len(item_ids)
    titles, n_titles = _titles([clean_text(text) for text in texts])
    counts["items_without_title"] = titles.count("")
    lists = [items[name].fill_null("").to_list() for name in columns if name.startswith("attributes_")]
    read = [_attributes(cells) for cells in zip(*lists, strict=True)] if lists else [([], 0) for _ in item_ids]
    attributes = [words for words, _ in read]
    unknown = {"titles_unknown": n_titles, "attributes_unknown": sum(nothing for _, nothing in read)}
    counts |= {name: count for name, count in unknown.items() if count}
    year = items["year"] if "year" in columns else pl.Series([None] * len(item_ids), dtype=pl.Int32)
    table = {
        "item_id": items["item_id"],
        "title": pl.Series([title or item for title, item in zip(titles, item_ids, strict=True)], dtype=pl.String),
        "attributes": pl.Series(attributes, dtype=pl.List(pl.String)),
        "year": year,
    }
    return pl.DataFrame(table), counts


def user_table(raw: pl.DataFrame, names: list[str]) -> tuple[pl.DataFrame, dict[str, int]]:
    """The users table, and a count of words for nothing in it; of a user's rows the first is used.

    A number is shown with its column's name: "age 24".
    """
    columns = [f"about {name}" for name in names]
    users = raw.select("user_id", *columns).unique("user_id", keep="first", maintain_order=True)
    rows = [
        [_attribute(name, text) for name, text in zip(names, row, strict=True)] for row in users.select(columns).rows()
    ]
    attributes = [[cell for cell in row if cell] for row in rows] or [[] for _ in range(users.height)]
    unknown = sum(cell is None for row in rows for cell in row)
    counts = {"user_attributes_unknown": unknown} if unknown else {}
    return users.select("user_id", pl.Series("attributes", attributes, dtype=pl.List(pl.String))), counts


def filter_ratings(
    rows: pl.DataFrame, items: pl.DataFrame, min_user: int, min_item: int, where: str
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Drop and count the ratings of unknown items, then repeated ones, then those outside the k-core.

    Of a user's ratings of an item the latest is kept. With published splits, a rating counts as repeated only if its
    time and split are the same, too.

    Raises:
        DataError: nothing is left. The message names ``where``, the file that ``items`` were read from.
    """
    known = keep_known(rows, items)
    if known.is_empty():
        have, rated = (shown(frame["item_id"].head(3).to_list()) for frame in (items, rows))
        raise DataError(
            f"{ARGS}.items: {where} holds none of the rated items: it has {have}, {ARGS}.ratings has {rated}. "
            f"Set {ARGS}.item_columns.id to the column with the ids of {ARGS}.columns.item."
        )
    pair = ("user_id", "item_id")
    by = (*pair, "timestamp", "split") if "split" in rows.columns else pair
    core, lost = filter_known(known, by, "latest", min_user, min_item)
    return core, {"ratings_of_unknown_items": rows.height - known.height} | lost


def own_histories(
    lists: pl.DataFrame, rows: pl.DataFrame, items: pl.DataFrame, missing: list[float], where: str
) -> tuple[pl.DataFrame, dict[str, int]]:
    """`Ratings.own_histories`, and how many list entries were left out: their item is unknown, their rating is missing.

    Args:
        lists: user_id, history, history_ratings where the file has them, and the records that share the list.
        rows: The interactions that remain, with ``row`` and ``record``.
        items: The items table.
        missing: Ratings that mean that there is none.
        where: The log, for errors.

    Raises:
        DataError: most entries are no known items. The message names the key.
    """
    used = (
        lists.with_row_index("list")
        .select("list", "record")
        .explode("record")
        .join(rows.select("record", "row"), on="record")
        .group_by("list")
        .agg(pl.col("row").sort().alias("rows"))
        .sort("list")
    )
    entries = lists.with_row_index("list").join(used.select("list"), on="list", how="semi", maintain_order="left")
    ids = pl.col("history").str.split(LIST_SEPARATOR).alias("item_ids")
    if "history_ratings" in lists.columns:
        rates = pl.col("history_ratings").str.split(LIST_SEPARATOR).cast(pl.List(pl.Float32))
        blank = pl.lit([""], pl.List(pl.String))
        rates = (
            pl.when(pl.col("history_ratings") == "")
            .then(blank.cast(pl.List(pl.Float32), strict=False))
            .otherwise(rates)
        )
        entries = entries.select("list", ids, rates.alias("ratings")).explode("item_ids", "ratings")
    else:
        entries = entries.select("list", ids, pl.lit(None, pl.Float32).alias("ratings")).explode("item_ids")
    entries = entries.filter(pl.col("item_ids") != "")
    known = entries.join(
        items.select("item_id"), left_on="item_ids", right_on="item_id", how="semi", maintain_order="left"
    )
    if (unknown := entries.height - known.height) > entries.height * _MOST:
        strange = entries.join(items, left_on="item_ids", right_on="item_id", how="anti")["item_ids"]
        raise DataError(
            f"{ARGS}.columns.history: {unknown} of {entries.height} entries in {where} are no item that is "
            f"known, such as {shown(strange.unique(maintain_order=True).head(3).to_list())}; items are "
            f"{shown(items['item_id'].head(3).to_list())}. Are they ids of the same kind, and is "
            f"{ARGS}.text.history_separator right?"
        )
    is_missing = pl.col("ratings").is_in(pl.Series(missing, dtype=pl.Float32).implode()).fill_null(False)
    rated = known.filter(~is_missing)
    filled = rated.group_by("list", maintain_order=True).agg("item_ids", "ratings")
    histories = used.join(filled, on="list", how="left", maintain_order="left").with_columns(
        pl.col("item_ids").fill_null([]), pl.col("ratings").fill_null([])
    )
    counts = {"history_items_unknown": unknown}
    if missing:
        counts["history_ratings_missing"] = known.height - rated.height
    return histories.select("rows", "item_ids", "ratings"), counts


def _titles(titles: list[str]) -> tuple[list[str], int]:
    """Titles, empty where they are words for nothing, and how many were. A single "Unknown" may be a film's name."""
    words = [title.lower() if title.lower() in NOTHING else "" for title in titles]
    several = words.count("unknown") > 1
    nothing = [word != "" and (several or word != "unknown") for word in words]
    return ["" if unknown else title for title, unknown in zip(titles, nothing, strict=True)], sum(nothing)


def _attributes(cells: tuple[str, ...]) -> tuple[list[str], int]:
    """The attributes of an item, without repetitions, and how many words for nothing were left out."""
    words = [word for cell in cells for word in map(clean_text, cell.split(LIST_SEPARATOR)) if word]
    known = list(dict.fromkeys(word for word in words if word.lower() not in NOTHING))
    return known, sum(word.lower() in NOTHING for word in words)


def _attribute(name: str, text: str) -> str | None:
    """One attribute of a user, None for a word for nothing. A column known only by its number adds no name."""
    text = clean_text(text or "")
    if text.lower() in NOTHING:
        return None
    number = text.replace(".", "", 1).removeprefix("-").isdecimal()
    return f"{name} {text}" if number and not name.isdecimal() else text
