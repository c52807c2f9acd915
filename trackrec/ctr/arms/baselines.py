"""Baselines without training: the item's mean, the user's mean, and both together."""

from __future__ import annotations

import numpy as np
import polars as pl

from trackrec.ctr.features.dense_statistics import HistoryStatistics
from trackrec.ctr.features.past import Prior, flatten, like_rate, logit, prior, source_rows
from trackrec.ctr.features.rating_scale import RatingScale


def baseline_predictions(
    samples: pl.DataFrame,
    histories: pl.DataFrame,
    interactions: pl.DataFrame,
    threshold: float = 3.0,
    item_smoothing: float = 10.0,
    user_smoothing: float = 5.0,
    whole: pl.DataFrame | None = None,
    history_statistics: HistoryStatistics = "all",
) -> pl.DataFrame:
    """Smoothed like-rates of strictly earlier rows, for every sample in order.

    The item's rate counts train and history rows. The user's rate adds the sample's recent list, so that users of a
    later split have a rate too; a user's newest ratings then count twice. Items that were chosen without a rating count
    for no rate. ``item_user`` adds the two as evidence: logit = logit(item) + logit(user) - logit(base), the base being
    the like-rate of all earlier rows.

    Args:
        samples, histories, interactions: the tables of :mod:`trackrec.storage.schemas`.
        threshold: a rating above it is a like.
        item_smoothing: pseudo-rows at the base rate, added to the rows of an item.
        user_smoothing: the same for a user.
        whole: the whole samples table where ``samples`` are a part of it, as in
            `trackrec.ctr.features.features.FeatureBuilder`.
        history_statistics: as the nets': with ``recent`` the user's rate is that of the recent list, with ``none``
            there is none.

    Returns:
        Columns ``sample_id``, ``split``, ``item_mean``, and unless there is no user's rate ``user_mean`` and
        ``item_user``: probabilities, float64.
    """
    source = source_rows(samples if whole is None else whole, histories, interactions)
    scale = RatingScale.of(source["rating"].to_numpy(), threshold)
    everything = prior(source, None, samples, scale)
    base = (everything.likes + 1.0) / (everything.n + 2.0)
    item = like_rate(prior(source, "item_id", samples, scale), base, item_smoothing)
    rates = {"item_mean": item}
    if history_statistics != "none":
        rated = _recent(samples, scale)
        if history_statistics == "all":
            earlier = prior(source, "user_id", samples, scale)
            rated = Prior(*(a + b for a, b in zip(earlier, rated, strict=True)))
        rates["user_mean"] = user = like_rate(rated, base, user_smoothing)
        evidence = logit(item) + logit(user) - logit(base)
        rates["item_user"] = 1.0 / (1.0 + np.exp(-evidence))
    return samples.select("sample_id", "split").with_columns(**{name: pl.Series(p) for name, p in rates.items()})


def _recent(samples: pl.DataFrame, scale: RatingScale) -> Prior:
    lengths = samples["recent_ratings"].list.len().to_numpy().astype(np.int64)
    row = np.repeat(np.arange(len(samples)), lengths)
    ratings = flatten(samples["recent_ratings"]).to_numpy().astype(np.float64)
    rated = ~np.isnan(ratings)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(row[rated], weights=values[rated], minlength=len(samples))

    return Prior(total(rated), total(ratings > scale.threshold), total(scale(ratings)))
