"""The ratings of today: from the run's own source, or from a log that is scanned without holding it in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from trackrec.interactions import DataError, RatingSource
from trackrec.interactions.sources.table import Table
from trackrec.recipe.names import DATA
from trackrec.runtime.errors import MissingFileError, SettingError
from trackrec.storage.atomic import stable_hash

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

    from trackrec.recipe.build import Objects
    from trackrec.recipe.experiment import Experiment

COLUMNS = ("user_id", "item_id", "rating", "timestamp")
_BATCH_ROWS = 2_000_000
_TYPES = {"user_id": pl.String, "item_id": pl.String, "rating": pl.Float32, "timestamp": pl.Int64}


class TodaysRatings(NamedTuple):
    """What is known today.

    Attributes:
        batches: user_id, item_id, rating, timestamp; read once.
        items: the items table.
        users: the users table.
        about: how many users there are, more or less.
        digest: of the files.
    """

    batches: Iterator[pl.DataFrame]
    items: pl.DataFrame
    users: pl.DataFrame
    about: int
    digest: str


def todays_ratings(exp: Experiment, objects: Objects, given: Path | None) -> TodaysRatings:
    """The ratings of the run's source as it is now, or those of ``--ratings``.

    Args:
        exp: the run, whose data stage knows the items of a scanned log.
        objects: builds the configuration's objects with another path of the ratings.
        given: Parquet with the columns user_id, item_id, rating (numbers) and timestamp (seconds since 1970, UTC), a
            file or a folder, which is scanned; or any file in the form that the run's `Table` reads; None is the run's
            source.

    Raises:
        MissingFileError, DataError: the files aren't there or can't be read.
        SettingError: the run's source can't read another file.
    """
    if given is None:
        return _read(exp.dataset, "the run's dataset")
    if not given.exists():
        raise MissingFileError(f"--ratings {given}: no such file or folder.")
    if (scanned := _parquet(given)) is not None:
        return _scan(exp, given, scanned)
    if not isinstance(exp.dataset, Table):
        raise SettingError(
            f"--ratings {given}: {type(exp.dataset).__name__} reads its own files only. Give Parquet with the columns "
            f"{', '.join(COLUMNS)}, or set --dataset.init_args.root."
        )
    return _read(objects({"dataset.init_args.ratings": str(given)}).dataset, str(given))


def _read(source: RatingSource, name: str) -> TodaysRatings:
    digest = stable_hash(*sorted(source.content_key().items()))
    ratings = source.read()
    if ratings.own_histories is not None:
        raise SettingError(
            f"--ratings: {name} publishes history lists and no log of what each user did. Give --ratings a log: "
            f"Parquet with the columns {', '.join(COLUMNS)}."
        )
    rows = ratings.interactions.sort("row").select(COLUMNS)
    return TodaysRatings(rows.iter_slices(_BATCH_ROWS), ratings.items, ratings.users, ratings.users.height, digest)


def _parquet(path: Path) -> ds.Dataset | None:
    """The dataset of a path that holds Parquet with our columns, else None."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files or not all(file.suffix in (".parquet", ".pq") for file in files):
        return None
    try:
        found = ds.dataset([str(file) for file in files], format="parquet")
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"--ratings {path} can't be read as Parquet ({error}).") from error
    return found if set(COLUMNS) <= set(found.schema.names) else None


def _scan(exp: Experiment, path: Path, log: ds.Dataset) -> TodaysRatings:
    stats = [Path(file).stat() for file in log.files]
    names = [f"{file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in zip(log.files, stats, strict=True)]
    users = pl.scan_pyarrow_dataset(log).select(pl.col("user_id").cast(pl.String).approx_n_unique())
    count = int(users.collect(engine="streaming").item())

    def batches() -> Iterator[pl.DataFrame]:
        held: list[pa.RecordBatch] = []
        for batch in log.to_batches(columns=list(COLUMNS)):
            held.append(batch)
            if sum(map(len, held)) >= _BATCH_ROWS:
                yield _typed(held, path)
                held = []
        if held:
            yield _typed(held, path)

    return TodaysRatings(batches(), exp.table(DATA, "items"), exp.table(DATA, "users"), count, stable_hash(*names))


def _typed(batches: list[pa.RecordBatch], path: Path) -> pl.DataFrame:
    """Rows of a scanned log in the types of the interactions table.

    Raises:
        DataError: a value is missing or of another type.
    """
    import pyarrow as pa

    frame = pl.from_arrow(pa.Table.from_batches(batches))
    assert isinstance(frame, pl.DataFrame)
    try:
        frame = frame.cast(_TYPES)  # type: ignore[arg-type]
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"--ratings {path}: user_id and item_id must be text or whole numbers, rating a number, timestamp whole "
            f"seconds since 1970 ({str(error).splitlines()[0]})."
        ) from error
    empty = [name for name in COLUMNS if frame[name].null_count()]
    if empty:
        raise DataError(f"--ratings {path}: the column {empty[0]} has rows without a value.")
    return frame
