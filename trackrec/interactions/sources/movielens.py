"""The MovieLens data sets: as GroupLens ships them, or as RecBole's atomic files.

Source: F. M. Harper and J. A. Konstan, The MovieLens Datasets: History and Context, TiiS 2015. GroupLens forbids
passing the files on, so they are fetched from GroupLens, never packaged.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import urllib.request
import zipfile
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from trackrec.interactions.source import ROOT_KEY, DataError, Ratings, RatingSource, choice_error, file_hashes
from trackrec.interactions.sources.filters import join_ratings
from trackrec.interactions.sources.movielens_files import Form, MovieFiles, read_movies
from trackrec.interactions.sources.unpack import PACKED

Variant = Literal[
    "auto", "recbole", "ml-100k", "ml-1m", "ml-10m", "ml-20m", "ml-25m", "ml-32m", "ml-latest", "ml-latest-small"
]

GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_TIMEOUT_S = 60
# In the order ratings, items, users.
_NAMES: dict[Form, tuple[str, ...]] = {
    "ml-100k": ("u.data", "u.item", "u.user"),
    "ml-1m": ("ratings.dat", "movies.dat", "users.dat"),
    "ml-10m": ("ratings.dat", "movies.dat"),
    "csv": ("ratings.csv", "movies.csv"),
}
_TAGS_OF_10M = "tags.dat"
_RELEASES: dict[str, Form] = {
    "ml-100k": "ml-100k",
    "ml-1m": "ml-1m",
    "ml-10m": "ml-10m",
    "ml-20m": "csv",
    "ml-25m": "csv",
    "ml-32m": "csv",
    "ml-latest-small": "csv",
    "ml-latest": "csv",
}
_WANTED = (
    "u.data, u.item, u.user (100K); ratings.dat, movies.dat, users.dat (1M; 10M has no users.dat); ratings.csv, "
    "movies.csv (20M, 25M, 32M, latest); or *.inter, *.item, *.user (RecBole)"
)


class MovieLens(RatingSource):
    """The MovieLens data sets: 100K, 1M, 10M, 20M, 25M, 32M, latest and latest-small.

    Each file may be compressed: .gz, .bz2, .xz, .zst, or .zip with that file alone. The releases from 10M on tell
    nothing of users.

    Args:
        root: The folder that holds the files. Fetched from GroupLens into there when it is missing or empty.
        variant: Which files to look for; ``auto`` takes the files found, and the folder's name says what to fetch.
        threshold: A rating above this is a like, 1 to 5.
        download: Whether a missing folder may be fetched (1 MB for latest-small, 5 MB for 100K, 6 MB for 1M, 65 MB for
            10M, 200 to 350 MB for the rest).

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
        items, users, interactions = read_movies(files)
        return join_ratings(items, users, interactions, files.items)

    def content_key(self) -> dict[str, str]:
        """See `RatingSource.content_key`."""
        files = self._find()
        paths = [path for path in (files.ratings, files.items, files.users) if path is not None]
        return file_hashes(self.root, paths)

    def _find(self) -> MovieFiles:
        """The files to read, fetched first if they are missing."""
        if not self.root.exists() or (self.root.is_dir() and not any(self.root.iterdir())):
            self._fetch()
        if not self.root.is_dir():
            unpack = "Unpack it. " if self.root.suffix.lower() in PACKED else ""
            raise DataError(
                f"{ROOT_KEY} must be a folder, got the file {str(self.root)!r}. {unpack}It should hold {_WANTED}."
            )
        forms = self._forms()
        if self.variant == "auto":
            if len(forms) > 1:
                names = [next((name for name, each in _RELEASES.items() if each == form), form) for form in forms]
                raise DataError(
                    f"{ROOT_KEY}: {str(self.root)!r} holds several formats. "
                    f"Set dataset.init_args.variant to one of {names}."
                )
            form = forms[0] if forms else None
        else:
            form = "recbole" if self.variant == "recbole" else _RELEASES[self.variant]
        if form is None or (form == "recbole" and "recbole" not in forms):
            wanted = "*.inter, *.item, *.user" if form else _WANTED
            raise DataError(f"{ROOT_KEY}: {str(self.root)!r} holds no ratings; want {wanted}.{self._nearby()}")
        names = self._atomic_names() if form == "recbole" else list(_NAMES[form])
        paths = [self._file(name) for name in names]
        missing = [name for name, path in zip(names, paths, strict=True) if path is None]
        if missing:
            raise DataError(
                f"{ROOT_KEY}: {str(self.root)!r} lacks {', '.join(missing)}. Put them beside the rest.{self._nearby()}"
            )
        ratings, items, *users = [path for path in paths if path is not None]
        return MovieFiles(form, ratings, items, users[0] if users else None)

    def _file(self, name: str) -> Path | None:
        """The file of that name in the folder, compressed or not."""
        paths = [self.root / (name + ending) for ending in ("", *PACKED)]
        return next((path for path in paths if path.is_file()), None)

    def _forms(self) -> list[Form]:
        """The forms of which the folder holds ratings. Those of 1M and 10M have one name; 10M has tags, no users."""
        forms: list[Form] = [form for form, names in _NAMES.items() if form != "ml-10m" and self._file(names[0])]
        if "ml-1m" in forms and self._file(_TAGS_OF_10M) and not self._file("users.dat"):
            forms = ["ml-10m" if form == "ml-1m" else form for form in forms]
        return [*forms, "recbole"] if self._stems() else forms

    def _stems(self) -> list[str]:
        """The names of RecBole's ratings, without their ending."""
        names = (path.name if path.suffix == ".inter" else path.stem for path in self.root.glob("*.inter*"))
        return sorted({name.removesuffix(".inter") for name in names if name.endswith(".inter") and self._file(name)})

    def _atomic_names(self) -> list[str]:
        stems = self._stems()
        if len(stems) > 1 and self.root.name not in stems:
            raise DataError(f"{ROOT_KEY}: {str(self.root)!r} holds several .inter files: {stems}. Keep one.")
        stem = self.root.name if self.root.name in stems else stems[0]
        return [f"{stem}.{kind}" for kind in ("inter", "item", "user")]

    def _nearby(self) -> str:
        """A hint for the common mistake of giving the parent folder."""
        names = [each[0] for each in _NAMES.values()]
        below = sorted({path.parent for name in (*names, "*.inter") for path in self.root.glob(f"*/{name}*")})
        return f" Did you mean {str(below[0])!r}?" if below else ""

    def _fetch(self) -> None:
        """Fetch and unpack into a temporary folder, then rename it to the root, which is therefore never incomplete."""
        name: str | None = self.variant if self.variant in _RELEASES else None
        if self.variant == "auto":
            # "latest" alone is the name of many a folder.
            signs = {name: name if "latest" in name else name.removeprefix("ml-") for name in _RELEASES}
            name = next((name for name, sign in signs.items() if sign in self.root.name.lower()), None)
        if name is None or not self.download:
            raise DataError(f"{ROOT_KEY}: {str(self.root)!r} is missing or empty. {self._how_to_fill(name)}")
        url = f"{GROUPLENS}/{name}.zip"
        try:
            _download(url, name, self.root)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{ROOT_KEY}: {str(self.root)!r} is missing and {url} can't be fetched ({error}). Fetch it by hand and "
                f"unpack it so that {str(self.root)!r} holds {', '.join(_NAMES[_RELEASES[name]])}."
            ) from error

    def _how_to_fill(self, name: str | None) -> str:
        """What to do about a missing folder that isn't fetched; ``name`` is its dataset, if known."""
        if self.variant == "recbole":
            return "Put *.inter, *.item and *.user there."
        if name is not None:
            source = f"{GROUPLENS}/{name}.zip so that it holds {', '.join(_NAMES[_RELEASES[name]])}"
            return f"Unpack {source}, or set dataset.init_args.download to true."
        return f"It should hold {_WANTED}. Set dataset.init_args.variant to ml-100k or ml-1m, say, to have it fetched."


def _download(url: str, name: str, root: Path) -> None:
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as temporary:
        archive, folder = Path(temporary) / "archive.zip", Path(temporary) / "files"
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer, archive.open("wb") as fetched:
            shutil.copyfileobj(answer, fetched)
        folder.mkdir()
        with zipfile.ZipFile(archive) as members:
            # The archive of 10M calls its folder ml-10M100K, and READMEs end in .txt or .html.
            inside = {PurePosixPath(member).name: member for member in members.namelist()}
            extra = [file for file in inside if file.startswith("README") or file == _TAGS_OF_10M]
            for file in (*_NAMES[_RELEASES[name]], *extra):
                with members.open(inside[file]) as source, (folder / file).open("wb") as target:
                    shutil.copyfileobj(source, target)
        folder.replace(root)
