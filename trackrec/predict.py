"""Probabilities for (user, item) requests from the nets of a finished run."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import polars as pl

from trackrec.experiment import Experiment
from trackrec.interactions import DataError
from trackrec.tables import stable_hash, write_whole


def predict(exp: Experiment, requests: Path, output: Path, arm: str) -> None:
    """Write ``output``: the requests with a column ``p``, the mean over the seeds of one arm.

    A request is answered as if it came after everything the run has read: the user's recent list is their newest
    ratings, item statistics count all train rows.

    Args:
        exp: a run whose ctr stage is done.
        requests: Parquet or CSV with ``user_id`` and ``item_id``.
        output: Parquet file to write.
        arm: one of those the ctr stage trained.

    Raises:
        DataError: a column, a user or an item is missing, or a user has no RecCoT.
        StageError: a stage that it reads isn't done, or is damaged.
    """
    from trackrec.ctr.assemble import sample_rows
    from trackrec.ctr.stage import predict_rows

    for stage in ("data", "texts", "embed", "ctr"):
        exp.pipeline.manifest(stage)
    wanted = _read(requests)
    inputs = exp.ctr_inputs()
    answerable = set(sample_rows(inputs, exp.ctr.text)["history_id"].to_list())
    rows = request_rows(wanted, inputs.samples, inputs.interactions, answerable)
    unknown = set(wanted["item_id"]) - set(inputs.items["item_id"])
    if unknown:
        raise DataError(f"--requests: {len(unknown)} items are not in the items table, the first is {min(unknown)!r}.")
    p = predict_rows(inputs, exp.ctr, exp.directory("ctr"), rows, arm, exp.seed)
    answered = wanted.with_columns(p=pl.Series(p, dtype=pl.Float32))
    content = io.BytesIO()
    answered.write_parquet(content)
    write_whole(output, content.getvalue())
    exp.say(f"{len(answered):,} predictions of arm {arm} in {output}")


def _read(path: Path) -> pl.DataFrame:
    readers: dict[str, Callable[[Path], pl.DataFrame]] = {".parquet": pl.read_parquet, ".csv": pl.read_csv}
    if path.suffix not in readers or not path.is_file():
        raise DataError(f"--requests must be an existing .parquet or .csv file, got {str(path)!r}.")
    frame = readers[path.suffix](path)
    missing = [name for name in ("user_id", "item_id") if name not in frame.columns]
    if missing:
        raise DataError(f"--requests: {path} lacks {', '.join(missing)}; it has {', '.join(frame.columns)}.")
    return frame.with_columns(pl.col("user_id", "item_id").cast(pl.String))


def request_rows(
    wanted: pl.DataFrame, samples: pl.DataFrame, interactions: pl.DataFrame, with_text: set[str]
) -> pl.DataFrame:
    """Requests as rows of the samples table, split ``request``: each user's newest ratings, just after the last rating.

    Raises:
        DataError: a user has no history with a RecCoT.
    """
    width = int(samples["recent_items"].list.len().max() or 1)  # type: ignore[arg-type]
    ordered = interactions.sort("timestamp", "row")
    recent = ordered.group_by("user_id", maintain_order=True).agg(
        recent_items=pl.col("item_id").tail(width), recent_ratings=pl.col("rating").tail(width)
    )
    newest = (
        samples.filter(pl.col("history_id").is_in(list(with_text)))
        .sort("timestamp", "sample_id")
        .group_by("user_id")
        .agg(pl.col("history_id").last())
    )
    rows = wanted.select("user_id", "item_id").join(newest, on="user_id", how="left", maintain_order="left")
    rows = rows.join(recent, on="user_id", how="left", maintain_order="left")
    strangers = rows.filter(pl.col("history_id").is_null())["user_id"].unique().sort()
    if len(strangers):
        raise DataError(
            f"--requests: {len(strangers)} users have no RecCoT in this run, the first is {strangers[0]!r}. "
            "With loop.texts: all every user of the samples has one."
        )
    now = int(ordered["timestamp"].max() or 0) + 1  # type: ignore[arg-type]
    ids = [stable_hash("request", number) for number in range(len(rows))]
    return rows.select(
        sample_id=pl.Series(ids, dtype=pl.String),
        user_id="user_id",
        item_id="item_id",
        label=pl.lit(0, pl.Int8),
        timestamp=pl.lit(now, pl.Int64),
        history_id="history_id",
        recent_items="recent_items",
        recent_ratings="recent_ratings",
        split=pl.lit("request"),
        use=pl.lit(""),
    )
