"""Reads the files of the MovieLens releases, and of RecBole's version of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import polars as pl

from trackrec.interactions.source import LAST_SECOND, ROOT_KEY, DataError, bad_lines_error, refuse_utf16, shown
from trackrec.interactions.sources.columns import LIST_SEPARATOR, Columns
from trackrec.interactions.sources.delimited import Advice, read_delimited
from trackrec.interactions.sources.text_format import TextFormat
from trackrec.interactions.sources.unpack import FETCH_AGAIN, open_plain

Form = Literal["recbole", "ml-100k", "ml-1m", "ml-10m", "csv"]
Tables = tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]

_BLOCK_BYTES = 1 << 22
_ADVICE = Advice(
    ROOT_KEY,
    bad_rows="Correct or delete them, or fetch the file again.",
    quote="Correct the line, or fetch the file again.",
)
# README of the releases from 10M on; unknown stands in 100K.
_NO_GENRES = ("", "unknown", "(no genres listed)")

# u.genre of ML-100K, one word each, in the order of the flags.
_GENRES = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror Musical "
    "Mystery Romance Sci-Fi Thriller War Western"
)
# README of ML-1M.
_AGES = {
    "1": "Under 18",
    "18": "18-24",
    "25": "25-34",
    "35": "35-44",
    "45": "45-49",
    "50": "50-55",
    "56": "56+",
}
_OCCUPATIONS = (
    "other",
    "academic/educator",
    "artist",
    "clerical/admin",
    "college/grad student",
    "customer service",
    "doctor/health care",
    "executive/managerial",
    "farmer",
    "homemaker",
    "K-12 student",
    "lawyer",
    "programmer",
    "retired",
    "sales/marketing",
    "scientist",
    "self-employed",
    "technician/engineer",
    "tradesman/craftsman",
    "unemployed",
    "writer",
)
_GENDERS = {"M": "male", "F": "female"}

_ARTICLE = r"(The|An?|Les?|La|L'|Il|Lo|Las|Los|El|Das|Der|Die|Det|Den|Une?|Una)"
# The year ends the title, for series as "(2006-2007)" or "(2006- )"; sometimes a "(V)" for video follows it.
_YEAR = re.compile(r"^(.*\S)\s*\((\d{4})(?:[-\u2013]\s*(?:\d{4})?)?\)\s*(?:\([A-Z]+\)\s*)?$")
_MOVED = re.compile(rf"^([^()]+), {_ARTICLE}(?=$| \()")
_MOVED_INSIDE = re.compile(rf"\(([^()]+), {_ARTICLE}\)")


class MovieFiles(NamedTuple):
    """The files of a release; those after 1M tell nothing of users."""

    form: Form
    ratings: Path
    items: Path
    users: Path | None


def read_movies(files: MovieFiles) -> Tables:
    """The tables of items (title without year, year, genres), users (age, gender, occupation) and interactions.

    Raises:
        DataError: a file can't be unpacked or read, or a line holds something else.
    """
    if files.users is None:
        return _read_large(files)
    readers = {"recbole": _read_recbole, "ml-100k": _read_100k, "ml-1m": _read_1m}
    ratings, items, users = readers[files.form](files.ratings, files.items, files.users)
    interactions = _parse_ratings(files.ratings, ratings)
    _need_unique(files.items, items, "item_id")
    _need_unique(files.users, users, "user_id")
    return _items(items), _users(files.users, users), interactions


def split_title(raw: str) -> tuple[str, int | None]:
    """A title with its article in front, and its year: "Matrix, The (1999)" -> ("The Matrix", 1999).

    The article of a translated title in brackets moves to its front as well.
    """
    title = raw.strip()
    year = None
    if match := _YEAR.match(title):
        title, year = match.group(1), int(match.group(2))
    title = _MOVED.sub(r"\2 \1", title)
    title = _MOVED_INSIDE.sub(r"(\2 \1)", title)
    return re.sub(r"(^|\()L' ", r"\1L'", title), year


def _read_large(files: MovieFiles) -> Tables:
    """Releases of up to 33 million ratings, which tell nothing of users."""
    csv = files.form == "csv"
    form = TextFormat() if csv else TextFormat(separator="::", header=False, quote=None)
    user, rated, stars, time = ("userId", "movieId", "rating", "timestamp") if csv else "1234"
    film, title, genres = ("movieId", "title", "genres") if csv else "123"

    def of_ratings(path: Path, schema: Mapping[str, pl.DataType]) -> Columns:
        columns = _columns(path, schema, (user, rated, stars, time))
        columns.id("user_id", "root", user)
        columns.id("item_id", "root", rated)
        columns.number("rating", "root", stars)
        seconds = pl.col(time).str.strip_chars().cast(pl.Float64, strict=False)
        columns.needs.append(time)
        columns.exprs["timestamp"] = seconds.cast(pl.Int64, strict=False)
        columns.require(seconds.abs() < LAST_SECOND, f"seconds in {time!r}")
        return columns

    def of_items(path: Path, schema: Mapping[str, pl.DataType]) -> Columns:
        columns = _columns(path, schema, (film, title, genres))
        columns.id("item_id", "root", film)
        columns.text("title", "root", title)
        columns.entries("genres", "root", genres, "|")
        return columns

    ratings, _ = read_delimited(files.ratings, _ADVICE, form, of_ratings, drop=False)
    if ratings.is_empty():
        raise DataError(f"{ROOT_KEY}: {files.ratings} holds no ratings. {FETCH_AGAIN}")
    items, _ = read_delimited(files.items, _ADVICE, form, of_items, drop=False)
    repeated = items.filter(~pl.col("item_id").is_first_distinct())["item_id"]
    if repeated.len():
        raise DataError(f"{ROOT_KEY}: {files.items} tells twice of {shown(repeated.to_list())}. Keep one line of each.")
    items = items.with_columns(pl.col("genres").str.split(LIST_SEPARATOR), pl.lit(None, pl.String).alias("year"))
    users = pl.DataFrame(schema={"user_id": pl.String, "attributes": pl.List(pl.String)})
    rows = ratings.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    return _items(items), users, rows.select("user_id", "item_id", "rating", "timestamp", "row")


def _columns(path: Path, schema: Mapping[str, pl.DataType], names: Sequence[str]) -> Columns:
    missing = [name for name in names if name not in schema]
    if missing and "1" in schema:
        raise DataError(f"{ROOT_KEY}: {path} has {len(schema)} field(s) a line, want {len(names)}. {FETCH_AGAIN}")
    if missing:
        raise DataError(
            f"{ROOT_KEY}: {path} lacks the column(s) {missing}; its header has {shown(list(schema))}. Rename them."
        )
    return Columns(path, schema)


def _read_100k(ratings_path: Path, items_path: Path, users_path: Path) -> Tables:
    ratings = _read_fields(ratings_path, "\t", ("user_id", "item_id", "rating", "timestamp"))
    items = _read_fields(items_path, "|", ("item_id", "title", "released", "video", "url", *_GENRES.split()))
    flags = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in _GENRES.split()]
    items = items.with_columns(
        pl.concat_list(flags).list.drop_nulls().alias("genres"),
        pl.col("released").str.extract(r"(\d{4})$").alias("year"),
    )
    users = _read_fields(users_path, "|", ("user_id", "age", "gender", "occupation", "zip_code"))
    return ratings, items, users


def _read_1m(ratings_path: Path, items_path: Path, users_path: Path) -> Tables:
    ratings = _read_fields(ratings_path, "::", ("user_id", "item_id", "rating", "timestamp"))
    items = _read_fields(items_path, "::", ("item_id", "title", "genres"))
    items = items.with_columns(pl.col("genres").str.split("|"), pl.lit(None, pl.String).alias("year"))
    return ratings, items, _read_fields(users_path, "::", ("user_id", "gender", "age", "occupation", "zip_code"))


def _read_recbole(ratings_path: Path, items_path: Path, users_path: Path) -> Tables:
    ratings, items, users = (_read_fields(path, "\t") for path in (ratings_path, items_path, users_path))
    _need_columns(ratings_path, ratings, ("user_id", "item_id", "rating", "timestamp"))
    items = items.rename({"class": "genre", "movie_title": "title", "release_year": "year"}, strict=False)
    _need_columns(items_path, items, ("item_id", "title", "year", "genre"))
    _need_columns(users_path, users, ("user_id", "age", "gender", "occupation"))
    return ratings, items.with_columns(pl.col("genre").str.split(" ").alias("genres")), users


def _items(raw: pl.DataFrame) -> pl.DataFrame:
    """The items table from item_id, title, genres, and year where the file has a column for it."""
    cleaned = [split_title(title) for title in raw["title"]]
    year = pl.Series("year", [year for _, year in cleaned], dtype=pl.Int32)
    genre = pl.element()
    return raw.select(
        "item_id",
        pl.Series("title", [title for title, _ in cleaned], dtype=pl.String),
        pl.col("genres").list.eval(genre.filter(~genre.is_in(_NO_GENRES))).alias("attributes"),
        pl.coalesce(year, pl.col("year").cast(pl.Int32, strict=False)).alias("year"),
    )


def _users(path: Path, raw: pl.DataFrame) -> pl.DataFrame:
    """The users table; numbers as occupations mean that ages and occupations are the codes of ML-1M."""
    raw = raw.with_columns(pl.col("age", "gender", "occupation").str.strip_chars())
    age: pl.Expr = pl.when(pl.col("age") != "").then(pl.col("age") + " years")
    occupation = pl.col("occupation")
    if raw.height and raw["occupation"].str.contains(r"^\d+$").all():
        age = pl.col("age").replace_strict(_AGES, default=None, return_dtype=pl.String)
        codes = {str(code): word for code, word in enumerate(_OCCUPATIONS)}
        occupation = pl.col("occupation").replace_strict(codes, default=None, return_dtype=pl.String)
        bad = raw.filter(age.is_null() | occupation.is_null())
        if not bad.is_empty():
            raise bad_lines_error(path, bad, f"age must be one of {', '.join(_AGES)}, occupation 0 to 20")
    word = pl.element()
    attributes = pl.concat_list(age, pl.col("gender").replace(_GENDERS), occupation)
    return raw.select(
        "user_id", attributes.list.eval(word.filter(word.is_not_null() & (word != ""))).alias("attributes")
    )


def _read_fields(path: Path, separator: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Split a text file into string columns; ``line`` (from 1) and ``text`` keep the line of each row.

    No quoting: a quotation mark is part of a title. Bytes that aren't UTF-8 are read as Latin-1, which is what
    GroupLens writes. Blank lines are skipped. Without ``columns`` the first line is a header of ``name:type`` cells.

    Raises:
        DataError: the file is empty or UTF-16, a line has the wrong number of fields, or the header repeats a name.
    """
    with open_plain(path, ROOT_KEY) as file:
        data = b"".join(iter(lambda: file.read(_BLOCK_BYTES), b""))
    refuse_utf16(path, data)
    try:
        decoded = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        decoded = data.decode("latin-1")
    lines = decoded.split("\n")  # not splitlines: it also cuts at Latin-1 control characters
    frame = pl.DataFrame({"text": lines}, schema={"text": pl.String}).with_row_index("line", offset=1)
    frame = frame.with_columns(pl.col("text").str.strip_suffix("\r"))
    frame = frame.filter(pl.col("text").str.strip_chars() != "")
    if frame.is_empty():
        raise DataError(f"{ROOT_KEY}: {path} is empty. Fetch the file again.")
    if columns is None:
        columns = [cell.split(":")[0].strip() for cell in frame["text"][0].split(separator)]
        if len({*columns, "line", "text"}) < len(columns) + 2:
            raise DataError(
                f"{ROOT_KEY}: the header of {path} repeats a column or has one named 'line' or 'text': "
                f"{shown(columns)}. Rename them there."
            )
        frame = frame.slice(1)
    fields = pl.col("text").str.split(separator)
    bad = frame.filter(fields.list.len() != len(columns))
    if not bad.is_empty():
        raise bad_lines_error(path, bad, f"not the {len(columns)} fields expected between {separator!r}")
    return frame.with_columns(fields.alias("fields")).select(
        "line", "text", *[pl.col("fields").list.get(i).alias(name) for i, name in enumerate(columns)]
    )


def _need_columns(path: Path, frame: pl.DataFrame, names: Sequence[str]) -> None:
    """Check that a file with a header has the columns that will be read.

    Raises:
        DataError: some are missing.
    """
    missing = [name for name in names if name not in frame.columns]
    if missing:
        have = [name for name in frame.columns if name not in ("line", "text")]
        raise DataError(
            f"{ROOT_KEY}: {path} lacks the column(s) {missing}; its header has {shown(have)}. Rename them there."
        )


def _parse_ratings(path: Path, frame: pl.DataFrame) -> pl.DataFrame:
    """The ``interactions`` table from string columns user_id, item_id, rating, timestamp, in file order.

    Timestamps keep the file's values, cut to whole seconds.

    Raises:
        DataError: there is no rating, an id is empty, or a rating or timestamp is not a number in range.
    """
    rating = pl.col("rating").str.strip_chars().cast(pl.Float32, strict=False)
    seconds = pl.col("timestamp").str.strip_chars().cast(pl.Float64, strict=False)
    good = rating.is_finite() & (seconds.abs() < LAST_SECOND) & (pl.col("user_id") != "") & (pl.col("item_id") != "")
    bad = frame.filter(~good.fill_null(False))
    if not bad.is_empty():
        raise bad_lines_error(path, bad, "want a user, an item, a number as rating and seconds as timestamp")
    if frame.is_empty():
        raise DataError(f"{ROOT_KEY}: {path} holds no ratings. Fetch the file again.")
    return frame.with_row_index("row").select(
        "user_id", "item_id", rating, seconds.cast(pl.Int64), pl.col("row").cast(pl.Int64)
    )


def _need_unique(path: Path, frame: pl.DataFrame, key: str) -> None:
    """Check the ids of an item or user file.

    Raises:
        DataError: an id is empty or occurs twice.
    """
    bad = frame.filter(~pl.col(key).is_first_distinct() | (pl.col(key) == ""))
    if not bad.is_empty():
        raise bad_lines_error(path, bad, f"{key} is empty or was used by an earlier line")
