"""MovieLens 100K and 1M: as GroupLens ships them, or as RecBole's atomic files.

Source: F. M. Harper and J. A. Konstan, The MovieLens Datasets: History and Context, TiiS 2015. GroupLens forbids
passing the files on, so they are fetched from GroupLens, never packaged.
"""

from __future__ import annotations

import math
import re
import shutil
import tempfile
import urllib.request
import zipfile
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import polars as pl

from trackrec.interactions.source import (
    ROOT_KEY,
    DataError,
    Ratings,
    RatingSource,
    bad_lines_error,
    choice_error,
    file_hashes,
    need_columns,
    need_unique,
    parse_ratings,
    read_fields,
)
from trackrec.interactions.sources.filters import join_ratings

Variant = Literal["auto", "recbole", "ml-100k", "ml-1m"]

GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_TIMEOUT_S = 60
# In the order ratings, items, users.
_NAMES = {"ml-100k": ("u.data", "u.item", "u.user"), "ml-1m": ("ratings.dat", "movies.dat", "users.dat")}
_WANTED = "u.data, u.item, u.user (100K); ratings.dat, movies.dat, users.dat (1M); or *.inter, *.item, *.user (RecBole)"

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
# The year ends the title; sometimes a "(V)" for video follows it.
_YEAR = re.compile(r"^(.*\S)\s*\((\d{4})\)\s*(?:\([A-Z]+\)\s*)?$")
_MOVED = re.compile(rf"^([^()]+), {_ARTICLE}(?=$| \()")
_MOVED_INSIDE = re.compile(rf"\(([^()]+), {_ARTICLE}\)")


class _Files(NamedTuple):
    variant: str
    ratings: Path
    items: Path
    users: Path


class MovieLens(RatingSource):
    """MovieLens 100K or 1M.

    Args:
        root: The folder that holds the files. Fetched from GroupLens into there when it is missing or empty.
        variant: Which files to look for; ``auto`` takes the files found, and the folder's name says what to fetch.
        threshold: A rating above this is a like, 1 to 5.
        download: Whether a missing folder may be fetched (5 MB for 100K, 6 MB for 1M).

    Raises:
        DataError: ``variant`` or ``threshold`` is out of range.
    """

    def __init__(self, root: Path, variant: Variant = "auto", threshold: float = 3.0, download: bool = True) -> None:
        if variant not in get_args(Variant):
            raise choice_error("dataset.init_args.variant", variant, get_args(Variant))
        if not (math.isfinite(threshold) and 1 <= threshold < 5):
            raise DataError(
                f"dataset.init_args.threshold must be in [1, 5), got {threshold}. Ratings above it are likes."
            )
        self.root = Path(root)
        self.variant = variant
        self.threshold = float(threshold)
        self.download = download

    def read(self) -> Ratings:
        """The ratings; items with title ("The Matrix"), year and genres; users with age, gender and occupation.

        Raises:
            DataError: files are missing and can't be fetched, or a line can't be read.
        """
        files = self._find()
        readers = {"recbole": _read_recbole, "ml-100k": _read_100k, "ml-1m": _read_1m}
        ratings, items, users = readers[files.variant](files)
        interactions = parse_ratings(files.ratings, ratings)
        need_unique(files.items, items, "item_id")
        need_unique(files.users, users, "user_id")
        return join_ratings(_items(items), _users(files.users, users), interactions, files.items)

    def content_key(self) -> dict[str, str]:
        """See `RatingSource.content_key`."""
        files = self._find()
        return file_hashes(self.root, (files.ratings, files.items, files.users))

    def _find(self) -> _Files:
        """The files to read, fetched first if they are missing."""
        if not self.root.exists() or (self.root.is_dir() and not any(self.root.iterdir())):
            self._fetch()
        if not self.root.is_dir():
            raise DataError(f"{ROOT_KEY} must be a folder, got the file {str(self.root)!r}. It should hold {_WANTED}.")
        formats = [name for name in _NAMES if (self.root / _NAMES[name][0]).exists()]
        if any(self.root.glob("*.inter")):
            formats.append("recbole")
        variant = self.variant if self.variant != "auto" else (formats[0] if formats else None)
        if self.variant == "auto" and len(formats) > 1:
            raise DataError(
                f"{ROOT_KEY}: {str(self.root)!r} holds several formats. "
                f"Set dataset.init_args.variant to one of {formats}."
            )
        if variant is None or (variant == "recbole" and "recbole" not in formats):
            wanted = "*.inter, *.item, *.user" if variant else _WANTED
            raise DataError(f"{ROOT_KEY}: {str(self.root)!r} holds no ratings; want {wanted}.{self._nearby()}")
        paths = self._atomic_paths() if variant == "recbole" else [self.root / name for name in _NAMES[variant]]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise DataError(
                f"{ROOT_KEY}: {str(self.root)!r} lacks {', '.join(missing)}. Put them beside the rest.{self._nearby()}"
            )
        return _Files(variant, *paths)

    def _atomic_paths(self) -> list[Path]:
        stems = sorted(path.stem for path in self.root.glob("*.inter"))
        if len(stems) > 1 and self.root.name not in stems:
            raise DataError(f"{ROOT_KEY}: {str(self.root)!r} holds several .inter files: {stems}. Keep one.")
        stem = self.root.name if self.root.name in stems else stems[0]
        return [self.root / f"{stem}.{kind}" for kind in ("inter", "item", "user")]

    def _nearby(self) -> str:
        """A hint for the common mistake of giving the parent folder."""
        names = [ratings for ratings, _, _ in _NAMES.values()]
        below = sorted({path.parent for name in (*names, "*.inter") for path in self.root.glob(f"*/{name}")})
        return f" Did you mean {str(below[0])!r}?" if below else ""

    def _fetch(self) -> None:
        """Fetch and unpack into a temporary folder, then rename it to the root, which is therefore never incomplete."""
        name: str | None = self.variant if self.variant in _NAMES else None
        if self.variant == "auto":
            name = next((name for name in _NAMES if name.removeprefix("ml-") in self.root.name.lower()), None)
        if name is None or not self.download:
            raise DataError(f"{ROOT_KEY}: {str(self.root)!r} is missing or empty. {self._how_to_fill(name)}")
        url = f"{GROUPLENS}/{name}.zip"
        try:
            _download(url, name, self.root)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{ROOT_KEY}: {str(self.root)!r} is missing and {url} can't be fetched ({error}). Fetch it by hand and "
                f"unpack it so that {str(self.root)!r} holds {', '.join(_NAMES[name])}."
            ) from error

    def _how_to_fill(self, name: str | None) -> str:
        """What to do about a missing folder that isn't fetched; ``name`` is its dataset, if known."""
        if self.variant == "recbole":
            return "Put *.inter, *.item and *.user there."
        if name is not None:
            source = f"{GROUPLENS}/{name}.zip so that it holds {', '.join(_NAMES[name])}"
            return f"Unpack {source}, or set dataset.init_args.download to true."
        return f"It should hold {_WANTED}. Set dataset.init_args.variant to ml-100k or ml-1m to have it fetched."


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


def _download(url: str, name: str, root: Path) -> None:
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as temporary:
        archive, folder = Path(temporary) / "archive.zip", Path(temporary) / "files"
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer, archive.open("wb") as file:
            shutil.copyfileobj(answer, file)
        folder.mkdir()
        with zipfile.ZipFile(archive) as members:
            for member in (*_NAMES[name], "README"):
                (folder / member).write_bytes(members.read(f"{name}/{member}"))
        folder.replace(root)


def _read_100k(files: _Files) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    ratings = read_fields(files.ratings, "\t", ("user_id", "item_id", "rating", "timestamp"))
    items = read_fields(files.items, "|", ("item_id", "title", "released", "video", "url", *_GENRES.split()))
    flags = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in _GENRES.split()]
    items = items.with_columns(
        pl.concat_list(flags).list.drop_nulls().alias("genres"),
        pl.col("released").str.extract(r"(\d{4})$").alias("year"),
    )
    users = read_fields(files.users, "|", ("user_id", "age", "gender", "occupation", "zip_code"))
    return ratings, items, users


def _read_1m(files: _Files) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    ratings = read_fields(files.ratings, "::", ("user_id", "item_id", "rating", "timestamp"))
    items = read_fields(files.items, "::", ("item_id", "title", "genres"))
    items = items.with_columns(pl.col("genres").str.split("|"), pl.lit(None, pl.String).alias("year"))
    return ratings, items, read_fields(files.users, "::", ("user_id", "gender", "age", "occupation", "zip_code"))


def _read_recbole(files: _Files) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    ratings, items, users = (read_fields(path, "\t") for path in (files.ratings, files.items, files.users))
    need_columns(files.ratings, ratings, ("user_id", "item_id", "rating", "timestamp"))
    items = items.rename({"class": "genre", "movie_title": "title", "release_year": "year"}, strict=False)
    need_columns(files.items, items, ("item_id", "title", "year", "genre"))
    need_columns(files.users, users, ("user_id", "age", "gender", "occupation"))
    return ratings, items.with_columns(pl.col("genre").str.split(" ").alias("genres")), users


def _items(raw: pl.DataFrame) -> pl.DataFrame:
    """The items table from item_id, title, genres, and year where the file has a column for it."""
    cleaned = [split_title(title) for title in raw["title"]]
    year = pl.Series("year", [year for _, year in cleaned], dtype=pl.Int32)
    genre = pl.element()
    return raw.select(
        "item_id",
        pl.Series("title", [title for title, _ in cleaned], dtype=pl.String),
        pl.col("genres").list.eval(genre.filter((genre != "") & (genre != "unknown"))).alias("attributes"),
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
