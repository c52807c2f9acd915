"""Who is there, in which tier, and why their text is written anew or stays."""

from __future__ import annotations

from typing import Literal, get_args

import polars as pl

from trackrec.bulk.settings import BulkSettings
from trackrec.storage.generations import empty_texts

Reason = Literal["new", "generator", "grown", "old", "all", "kept"]
REASONS: tuple[str, ...] = get_args(Reason)
"""Why a text is written: the user has none; another generator wrote the last; so many new ratings; its age; because all
are asked for. ``kept``: it isn't."""
_DAY_S = 86_400


def people_of(
    ratings: pl.DataFrame,
    before: pl.DataFrame | None,
    settings: BulkSettings,
    versions: dict[str, str],
    now: int,
    everyone: bool = False,
) -> pl.DataFrame:
    """The users of one bucket: user_id, n_ratings, newest, tier, reason; sorted by user.

    Args:
        ratings: of the bucket, as `RatingLog.bucket`.
        before: the bucket's rows of the last generation; None where there is none.
        settings: the tiers and the policy.
        versions: of the generator of each tier.
        now: seconds since 1970, UTC.
        everyone: write all texts anew.
    """
    users = ratings.group_by("user_id").agg(n_ratings=pl.len().cast(pl.Int64), newest=pl.col("timestamp").max())
    tier = pl.lit(settings.tiers[-1].name)
    for one in reversed(settings.tiers[:-1]):
        assert one.active_days is not None
        active = pl.col("newest") >= now - one.active_days * _DAY_S
        tier = pl.when(active).then(pl.lit(one.name)).otherwise(tier)
    users = users.with_columns(tier=tier, version=tier.replace_strict(versions, return_dtype=pl.String))
    last = (empty_texts() if before is None else before).select(
        "user_id", "made_at", had="n_ratings", by="generator", last_tier="tier"
    )
    users = users.join(last, on="user_id", how="left")
    return (
        users.with_columns(reason=_reason(settings, now, everyone))
        .select("user_id", "n_ratings", "newest", "tier", "reason")
        .sort("user_id")
    )


def _reason(settings: BulkSettings, now: int, everyone: bool) -> pl.Expr:
    policy = settings.policy
    more = pl.col("n_ratings") - pl.col("had")
    grown = pl.lit(False)
    if policy.min_new is not None:
        grown = grown | (more >= policy.min_new)
    if policy.min_share is not None:
        grown = grown | ((more > 0) & (more >= policy.min_share * pl.col("had")))
    old = pl.lit(False)
    if policy.max_age_days is not None:
        old = now - pl.col("made_at") >= policy.max_age_days * _DAY_S
    # A user who falls to a lower tier keeps the better text; who rises gets one.
    ranks = {tier.name: rank for rank, tier in enumerate(settings.tiers)}
    rank, last_rank = (
        pl.col(name).replace_strict(ranks, default=len(ranks), return_dtype=pl.Int64) for name in ("tier", "last_tier")
    )
    other = pl.when(rank == last_rank).then(pl.col("by") != pl.col("version")).otherwise(rank < last_rank)
    return (
        pl.when(pl.col("had").is_null())
        .then(pl.lit("new"))
        .when(other)
        .then(pl.lit("generator"))
        .when(grown)
        .then(pl.lit("grown"))
        .when(old)
        .then(pl.lit("old"))
        .when(everyone)
        .then(pl.lit("all"))
        .otherwise(pl.lit("kept"))
    )
