"""The books of the Amazon Reviews, releases of 2018 and 2023.

Sources: J. Ni, J. Li and J. McAuley, Justifying recommendations using distantly-labeled reviews and fine-grained
aspects, EMNLP 2019; Y. Hou et al., Bridging Language and Items for Retrieval and Recommendation, arXiv 2403.03952.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import polars as pl

from trackrec.interactions.source import (
    LAST_SECOND,
    ROOT_KEY,
    DataError,
    Ratings,
    RatingSource,
    choice_error,
    file_hashes,
    shown,
)
from trackrec.interactions.sources.amazon_items import ID, Release, read_items
from trackrec.interactions.sources.columns import ARGS
from trackrec.interactions.sources.filters import add_strangers, check_core, filter_known, keep_known
from trackrec.interactions.sources.lines import (
    CsvFormat,
    JsonFormat,
    LineFormat,
    LinePlan,
    first_line,
    read_lines,
)
from trackrec.interactions.sources.unpack import FETCH_AGAIN, PACKED

Untitled = Literal["id", "drop"]
BadRows = Literal["error", "drop"]

SITES = {
    "2018": "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/",
    "2023": "https://amazon-reviews-2023.github.io",
}
_ENDINGS = ("", *PACKED)
_REVIEWS: dict[str, Release | None] = {
    "Books.jsonl": "2023",
    "Books.json": "2018",
    "Books_5.json": "2018",
    "Books.csv": None,
    "ratings_Books.csv": None,
}
_META: dict[Release, str] = {"2018": "meta_Books.json", "2023": "meta_Books.jsonl"}
_WANTED = (
    f"Books.jsonl.gz and meta_Books.jsonl.gz ({SITES['2023']}), or Books.json.gz or Books_5.json.gz and "
    f"meta_Books.json.gz ({SITES['2018']}); the ratings-only Books.csv of either release may take the place of its "
    "reviews"
)
# user, item, rating, time
_NAMES: dict[Release, tuple[str, str, str, str]] = {
    "2018": ("reviewerID", "asin", "overall", "unixReviewTime"),
    "2023": ("user_id", "parent_asin", "rating", "timestamp"),
}
# Columns of ratings-only files; only 2023's have a header.
_COLUMNS = ("user_id", "item_id", "rating", "timestamp")
_ASIN = r"^(?:\d{9}[\dX]|B[0-9A-Z]{9})$"
_STARS = 5.0
# Amazon opened in 1995: its times in milliseconds are all above `LAST_SECOND`, those in seconds below it.
_LAST_MILLISECOND = 1000 * LAST_SECOND


class _Files(NamedTuple):
    release: Release
    reviews: Path
    meta: Path


class _Layout(NamedTuple):
    """The format of a review file; ``names`` are its columns of user, item, rating and time."""

    release: Release
    form: LineFormat
    names: tuple[str, str, str, str]
    header_lines: int = 0


class AmazonBook(RatingSource):
    """Amazon's books: the reviews' stars, with titles, authors and categories.

    Reads either release from the files of its site, compressed (.gz, .bz2, .xz, .zst, .zip) or not. Of several reviews
    of a book by one reader the earliest is kept, as in the benchmark files of the 2023 release. An item of 2023 is a
    ``parent_asin``, which the editions of a book share. The times of 2018 are whole days: with ``samples.strict_ties``
    a history leaves out the reviews of the target's day.

    Args:
        root: The folder with the review file and the metadata file. They are gigabytes, so nothing is fetched.
        reviews: The review file's name, where the folder holds several.
        threshold: A rating above this is a like, 1 to 5; with 4 only five stars are a like.
        min_user_ratings: Readers with fewer ratings are left out, and then books, until nothing changes (k-core).
        min_item_ratings: Likewise for books.
        untitled: What to do with books that have no title, or HTML instead: "id" uses the id, "drop" leaves them out.
        bad_rows: "error" names the first lines that can't be read; "drop" leaves bad lines out and counts them.

    Raises:
        DataError: an argument is out of range.
    """

    def __init__(
        self,
        root: Path,
        reviews: str | None = None,
        threshold: float = 4.0,
        min_user_ratings: int = 5,
        min_item_ratings: int = 5,
        untitled: Untitled = "id",
        bad_rows: BadRows = "error",
    ) -> None:
        if not (math.isfinite(threshold) and 1 <= threshold < _STARS):
            raise DataError(f"{ARGS}.threshold must be in [1, 5), got {threshold}. Ratings above it are likes.")
        check_core(min_user_ratings, min_item_ratings)
        if untitled not in get_args(Untitled):
            raise choice_error(f"{ARGS}.untitled", untitled, get_args(Untitled))
        if bad_rows not in get_args(BadRows):
            raise choice_error(f"{ARGS}.bad_rows", bad_rows, get_args(BadRows))
        self.root = Path(root)
        self.reviews = reviews
        self.threshold = float(threshold)
        self.least = (min_user_ratings, min_item_ratings)
        self.untitled = untitled
        self.drop = bad_rows == "drop"

    def read(self) -> Ratings:
        """The ratings that remain, their books and readers; ``counts`` has every repair and what each filter dropped.

        Memory grows with the number of ratings and books, never with the length of their texts.

        Raises:
            DataError: files are missing, lines can't be read (unless ``bad_rows`` is drop), or no rating is left.
        """
        files = self._find()
        rows, counts = self._read_reviews(files)
        if rows.is_empty():
            raise DataError(f"{ROOT_KEY}: {files.reviews} holds no ratings ({counts['bad_rows']} bad rows).")
        items, repairs = read_items(files.meta, files.release, rows["item_id"].unique(), self.drop)
        known = keep_known(rows, items)
        if known.is_empty():
            raise DataError(
                f"{ROOT_KEY}: {files.meta} holds none of the {rows['item_id'].n_unique()} books of {files.reviews}, "
                f"such as {shown(rows['item_id'].head(3).to_list())}. Are both of one release?"
            )
        counts |= repairs | {"ratings_of_unknown_items": rows.height - known.height}
        titled = keep_known(known, items.filter(pl.col("title") != "")) if self.untitled == "drop" else known
        counts["ratings_of_untitled_items"] = known.height - titled.height
        if titled.is_empty():
            raise DataError(f"{ARGS}.untitled is 'drop', but {files.meta} has a title for none of the rated books.")
        del rows, known
        core, lost = filter_known(titled, ("user_id", "item_id"), "earliest", *self.least)
        return _tables(core, items, counts | lost)

    def content_key(self) -> dict[str, str]:
        """See `RatingSource.content_key`."""
        files = self._find()
        return file_hashes(self.root, (files.reviews, files.meta))

    def _find(self) -> _Files:
        if not self.root.is_dir():
            what = "is a file" if self.root.exists() else "is missing"
            raise DataError(f"{ROOT_KEY}: the folder {str(self.root)!r} {what}. It should hold {_WANTED}.")
        reviews = self._find_reviews()
        release = _layout(reviews).release
        for suffix in _ENDINGS:
            meta = self.root / (_META[release] + suffix)
            if meta.is_file():
                return _Files(release, reviews, meta)
        raise DataError(
            f"{ROOT_KEY}: {str(self.root)!r} lacks {_META[release]}.gz, the titles of the books in {reviews.name}. "
            f"Fetch it from {SITES[release]}."
        )

    def _find_reviews(self) -> Path:
        allowed = [name + suffix for name in _REVIEWS for suffix in _ENDINGS]
        if self.reviews is not None:
            if self.reviews not in allowed:
                raise choice_error(f"{ARGS}.reviews", self.reviews, allowed)
            if not (self.root / self.reviews).is_file():
                raise DataError(f"{ARGS}.reviews: {str(self.root)!r} lacks {self.reviews}. Put it there.")
            return self.root / self.reviews
        paths = [self.root / name for name in allowed if (self.root / name).is_file()]
        if not paths:
            raise DataError(f"{ROOT_KEY}: {str(self.root)!r} holds no reviews; want {_WANTED}.")
        if len(paths) > 1:
            names = [path.name for path in paths]
            raise DataError(
                f"{ROOT_KEY}: {str(self.root)!r} holds several review files. Set {ARGS}.reviews to one of {names}."
            )
        return paths[0]

    def _read_reviews(self, files: _Files) -> tuple[pl.DataFrame, dict[str, int]]:
        """user_id and item_id as categories, rating, timestamp and row of every good line."""
        _, form, names, skip = _layout(files.reviews)
        user, item, rating, time = (pl.col(name) for name in names)
        stars = rating.cast(pl.Float64, strict=False)
        number = time.cast(pl.Float64, strict=False)
        in_ms = number >= LAST_SECOND
        good = user.str.contains(ID) & item.str.contains(ID) & stars.is_between(0, _STARS)
        seconds = pl.when(in_ms).then((number / 1000).floor()).otherwise(number.floor()).cast(pl.Int64)
        plan = LinePlan(
            good=good & number.is_between(0, _LAST_MILLISECOND),
            wants=f"want ids in {names[0]!r} and {names[1]!r}, 0 to 5 in {names[2]!r}, seconds or ms in {names[3]!r}",
            reduce=lambda frame: frame.select(
                user.cast(pl.Categorical).alias("user_id"),
                item.cast(pl.Categorical).alias("item_id"),
                stars.cast(pl.Float32).alias("rating"),
                seconds.alias("timestamp"),
                in_ms.alias("in_ms"),
            ),
        )
        rows, bad = read_lines(files.reviews, form, plan, self.drop, skip)
        counts = {"bad_rows": bad, "ratings_read": rows.height, "millisecond_times": int(rows["in_ms"].sum())}
        return rows.drop("in_ms").with_row_index("row").cast({"row": pl.Int64}).select(*_COLUMNS, "row"), counts


def _layout(path: Path) -> _Layout:
    release = _REVIEWS[path.name if path.name in _REVIEWS else path.stem]
    if release is not None:
        user, item, rating, time = names = _NAMES[release]
        fields = {user: pl.String(), item: pl.String(), rating: pl.Float64(), time: pl.Float64()}
        return _Layout(release, JsonFormat(fields), names)
    header = first_line(path)
    cells = [cell.strip() for cell in header.text.split(",")]
    wanted = set(_NAMES["2023"])
    if wanted & set(cells):
        if not wanted <= set(cells) or len(set(cells)) < len(cells):
            raise DataError(
                f"{ROOT_KEY}: the header of {path} must name {', '.join(_NAMES['2023'])}, each column once, got "
                f"{shown(cells)}. {FETCH_AGAIN}"
            )
        return _Layout("2023", CsvFormat(cells), _NAMES["2023"], header.number)
    # The first column of 2018 is the book, that of 2014 the reader; 2014's books are in the metadata of 2018 as well.
    is_asin = pl.Series(cells[:2], dtype=pl.String).str.contains(_ASIN).to_list()
    user, item = _COLUMNS[:2]
    order = (user, item) if is_asin == [False, True] else (item, user)
    return _Layout("2018", CsvFormat((*order, *_COLUMNS[2:])), _COLUMNS)


def _tables(core: pl.DataFrame, items: pl.DataFrame, counts: dict[str, int]) -> Ratings:
    """The tables of the ratings that remain, with ids as text."""
    rated = items.filter(pl.col("item_id").is_in(core["item_id"].unique().implode()))
    ids = pl.col("item_id").cast(pl.String)
    titled = rated.with_columns(ids, pl.when(pl.col("title") == "").then(ids).otherwise("title").alias("title"))
    rows = core.with_columns(pl.col("user_id", "item_id").cast(pl.String))
    no_users = pl.DataFrame(schema={"user_id": pl.String, "attributes": pl.List(pl.String)})
    users = add_strangers(no_users, rows)
    counts |= {"items": titled.height, "users": users.height, "ratings": rows.height}
    return Ratings(titled, users, rows, counts)
