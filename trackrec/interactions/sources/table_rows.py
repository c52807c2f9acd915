"""What `Table` makes of the columns that it has read: items, users, the k-core, and published history lists."""

from __future__ import annotations

import polars as pl

from trackrec.interactions.source import DataError, clean_text, shown
from trackrec.interactions.sources.columns import ARGS, LIST_SEPARATOR
from trackrec.interactions.sources.filters import filter_known, keep_known


def explode_impressions(records: pl.DataFrame) -> pl.DataFrame:
    """One row per item shown, in the order shown; rating is 1 for a chosen one and 0 for the rest."""
    shown = records.drop("history", "history_ratings", strict=False).with_columns(
        pl.col("impressions").str.split(LIST_SEPARATOR)
    )
    rows = shown.explode("impressions").filter(pl.col("impressions") != "")
    return rows.with_columns(
        pl.col("impressions").str.head(-2).alias("item_id"),
        pl.col("impressions").str.tail(1).cast(pl.Float32).alias("rating"),
    ).drop("impressions")


def item_table(
    raw: pl.DataFrame | None, ids: pl.Series | None, counts: dict[str, int]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The items table, and how many rows repeat an item (the first stays) and how many items have no title.

    Args:
        raw: item_id and, where the file has them, title, year and attributes_0, attributes_1 ...
        ids: The items to describe, if they aren't those of ``raw``; of an item's rows in ``raw`` the first serves.
        counts: Added to.
    """
    if raw is None:
        raw = pl.DataFrame(schema={"item_id": pl.String})
    about = [name for name in raw.columns if name in ("title", "year") or name.startswith("attributes_")]
    rows = raw.select("item_id", *about)
    if ids is None:
        items = rows.unique("item_id", keep="first", maintain_order=True)
        counts["duplicate_items"] = rows.height - items.height
    else:
        items = ids.unique(maintain_order=True).to_frame().filter(pl.col("item_id") != "")
        if about:
            titled = rows.filter(pl.col("title") != "") if "title" in about else rows
            firsts = titled.unique("item_id", keep="first")
            items = items.join(firsts, on="item_id", how="left", maintain_order="left")
    item_ids = items["item_id"].to_list()
    texts = items["title"].fill_null("").to_list() if "title" in about else [""] * len(item_ids)
    titles = [clean_text(text) for text in texts]
    counts["items_without_title"] = titles.count("")
    lists = [items[name].fill_null("").to_list() for name in about if name.startswith("attributes_")]
    attributes = [_words(cells) for cells in zip(*lists, strict=True)] if lists else [[] for _ in item_ids]
    year = items["year"] if "year" in about else pl.Series([None] * len(item_ids), dtype=pl.Int32)
    table = {
        "item_id": items["item_id"],
        "title": pl.Series([title or item for title, item in zip(titles, item_ids, strict=True)], dtype=pl.String),
        "attributes": pl.Series(attributes, dtype=pl.List(pl.String)),
        "year": year,
    }
    return pl.DataFrame(table), counts


def user_table(raw: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    """The users table; a user's first row serves. A number is told with its column's name: "age 24"."""
    columns = [f"about {name}" for name in names]
    users = raw.select("user_id", *columns).unique("user_id", keep="first", maintain_order=True)
    told = [
        [_about(name, text) for name, text in zip(names, texts, strict=True)] for texts in users.select(columns).rows()
    ]
    attributes = [[word for word in words if word] for words in told] or [[] for _ in range(users.height)]
    return users.select("user_id", pl.Series("attributes", attributes, dtype=pl.List(pl.String)))


def filter_ratings(
    rows: pl.DataFrame, items: pl.DataFrame, min_user: int, min_item: int, where: str
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Drop and count the ratings of unknown items, then repeated ones, then those outside the k-core.

    Of a user's ratings of an item the latest stays; where splits are published, only a repetition of the same time and
    split is one.

    Raises:
        DataError: nothing is left. ``where`` is what ``items`` were read from.
    """
    known = keep_known(rows, items)
    if known.is_empty():
        have, rated = (shown(frame["item_id"].head(3).to_list()) for frame in (items, rows))
        raise DataError(
            f"{ARGS}.items: {where} holds none of the rated items: it has {have}, {ARGS}.ratings has {rated}. "
            f"Set {ARGS}.item_id to the column with the ids of {ARGS}.item."
        )
    pair = ("user_id", "item_id")
    by = (*pair, "timestamp", "split") if "split" in rows.columns else pair
    core, lost = filter_known(known, by, "latest", min_user, min_item)
    return core, {"ratings_of_unknown_items": rows.height - known.height} | lost


def own_histories(
    lists: pl.DataFrame, rows: pl.DataFrame, items: pl.DataFrame, best: float
) -> tuple[pl.DataFrame, int]:
    """`Ratings.own_histories`, and how many entries of unknown items were left out of its lists.

    Args:
        lists: user_id, history, perhaps history_ratings, and the records that share them.
        rows: The interactions that stay, with ``row`` and ``record``.
        items: The items table.
        best: The rating of an entry without one.
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
        entries = (
            entries.select("list", ids).explode("item_ids").with_columns(pl.lit(best, pl.Float32).alias("ratings"))
        )
    entries = entries.filter(pl.col("item_ids") != "")
    known = entries.join(
        items.select("item_id"), left_on="item_ids", right_on="item_id", how="semi", maintain_order="left"
    )
    filled = known.group_by("list", maintain_order=True).agg("item_ids", "ratings")
    whole = used.join(filled, on="list", how="left", maintain_order="left").with_columns(
        pl.col("item_ids").fill_null([]), pl.col("ratings").fill_null([])
    )
    return whole.select("rows", "item_ids", "ratings"), entries.height - known.height


def _words(cells: tuple[str, ...]) -> list[str]:
    """The attributes of an item, each once."""
    words = [clean_text(word) for cell in cells for word in cell.split(LIST_SEPARATOR)]
    return list(dict.fromkeys(word for word in words if word))


def _about(name: str, text: str) -> str:
    """One attribute of a user; a column that is called by its number has no name to tell."""
    text = clean_text(text or "")
    number = text.replace(".", "", 1).removeprefix("-").isdecimal()
    return f"{name} {text}" if number and not name.isdecimal() else text
