"""The validator (V) as a recommender, and the reward of the generator (G) on held-out rows, from the scores table."""

from __future__ import annotations

import numpy as np
import polars as pl

from trackrec.metrics.intervals import Interval, evaluate, user_bootstrap
from trackrec.metrics.scores import balanced_mean


def scored_rows_of(scores: pl.DataFrame, samples: pl.DataFrame, validator: str, source: str) -> pl.DataFrame:
    """One validator's scores of one source, joined to labels and users.

    Raises:
        ValueError: a score belongs to no sample, or a sample was scored twice.
    """
    rows = scores.filter((pl.col("validator") == validator) & (pl.col("source") == source))
    joined = rows.join(samples.select("sample_id", "user_id", "label"), on="sample_id", how="inner")
    if len(joined) != len(rows) or joined["sample_id"].n_unique() != len(rows):
        raise ValueError(f"scores of {validator} on {source}: {len(rows)} rows, {len(joined)} of them known samples")
    return joined.sort("sample_id")


def validator_metrics(rows: pl.DataFrame, seed: int) -> dict[str, Interval]:
    """AUC, ACC, LogLoss, UAUC and reward of scored rows; a row counts even where V would write neither Yes nor No."""
    users, labels = rows["user_id"].to_numpy(), rows["label"].to_numpy()
    metrics = evaluate(rows["p_yes"].to_numpy(), labels, users, seed=seed)
    p_true = rows["p_true"].to_numpy().astype(np.float64)
    metrics["reward"] = user_bootstrap(balanced_mean, users, p_true, labels, n_resamples=500, seed=seed)
    mass = float(rows["answer_mass"].mean() or 0.0)  # type: ignore[arg-type]
    metrics["answer_mass"] = Interval(mass, float("nan"), float("nan"), len(rows))
    return metrics
