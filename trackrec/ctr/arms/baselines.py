"""Baselines without training: the item's mean, the user's mean, and both together."""

from __future__ import annotations

import numpy as np
import polars as pl

from trackrec.ctr.features.past import Prior, flatten, like_rate, logit, prior, source_rows


def baseline_predictions(
    samples: pl.DataFrame,
    histories: pl.DataFrame,
    interactions: pl.DataFrame,
    threshold: float = 3.0,
    item_smoothing: float = 10.0,
    user_smoothing: float = 5.0,
    whole: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Smoothed like-rates of strictly earlier rows, for every sample in order.

    The item's rate counts train and history rows. The user's rate adds the sample's recent list, so that users of a
    later split have a rate too; a user's newest ratings then count twice. ``item_user`` adds the two as evidence:
    logit = logit(item) + logit(user) - logit(base), the base being the like-rate of all earlier rows.

    Args:
        samples, histories, interactions: the tables of :mod:`trackrec.storage.schemas`.
        threshold: a rating above it is a like.
        item_smoothing: pseudo-rows at the base rate, added to the rows of an item.
        user_smoothing: the same for a user.
        whole: the whole samples table where ``samples`` are a part of it, as in
            `trackrec.ctr.features.features.FeatureBuilder`.

    Returns:
        Columns ``sample_id``, ``split``, ``item_mean``, ``user_mean``, ``item_user``: probabilities, float64.
    """
    source = source_rows(samples if whole is None else whole, histories, interactions)
    everything = prior(source, None, samples, threshold)
    base = (everything.likes + 1.0) / (everything.n + 2.0)
    item = like_rate(prior(source, "item_id", samples, threshold), base, item_smoothing)
    earlier = prior(source, "user_id", samples, threshold)
    recent = _recent(samples, threshold)
    both = Prior(*(a + b for a, b in zip(earlier, recent, strict=True)))
    user = like_rate(both, base, user_smoothing)
    evidence = logit(item) + logit(user) - logit(base)
    return samples.select("sample_id", "split").with_columns(
        item_mean=pl.Series(item),
        user_mean=pl.Series(user),
        item_user=pl.Series(1.0 / (1.0 + np.exp(-evidence))),
    )


def _recent(samples: pl.DataFrame, threshold: float) -> Prior:
    lengths = samples["recent_ratings"].list.len().to_numpy().astype(np.int64)
    row = np.repeat(np.arange(len(samples)), lengths)
    ratings = flatten(samples["recent_ratings"]).to_numpy().astype(np.float64)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(row, weights=values, minlength=len(samples))

    return Prior(lengths.astype(np.float64), total(ratings > threshold), total(ratings - threshold))
