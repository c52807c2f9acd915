"""The validator (V) as a recommender, and the reward of the generator (G) on held-out rows, from the scores table."""

from __future__ import annotations

import numpy as np
import polars as pl

from trackrec.metrics.intervals import Interval, evaluate, paired_bootstrap, user_bootstrap
from trackrec.metrics.scores import auc, balanced_mean


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


def text_use(own: pl.DataFrame, other: pl.DataFrame, seed: int) -> Interval:
    """V's AUC with the text about the user less its AUC with another user's: 0 where V doesn't read what a text says.

    The interval is over users, who are resampled for both together.

    Args:
        own: `scored_rows_of` the texts.
        other: the same rows, scored with another user's text.
        seed: of the resampling.

    Raises:
        ValueError: the two are of different rows.
    """
    if own["sample_id"].to_list() != other["sample_id"].to_list():
        raise ValueError(f"two scorings of different rows: {len(own)} and {len(other)}")
    users, labels = own["user_id"].to_numpy(), own["label"].to_numpy()
    return paired_bootstrap(auc, users, labels, own["p_yes"].to_numpy(), other["p_yes"].to_numpy(), seed=seed)
