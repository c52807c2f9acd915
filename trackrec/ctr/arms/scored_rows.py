"""Which rows the validator (V) scores for ``ctr.text.use: log_odds``, and with whose texts."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from trackrec.ctr.arms.shuffle import other_texts
from trackrec.storage.atomic import stable_hash


def rows_to_score(samples: pl.DataFrame, most: int | None, seed: int) -> pl.DataFrame:
    """At most ``most`` rows of each history and split, chosen by hash; None: all rows."""
    if most is None:
        return samples
    ranks = [stable_hash("log_odds", seed, key) for key in samples["sample_id"].to_list()]
    ranked = samples.with_columns(rank=pl.Series(ranks, dtype=pl.String)).sort("rank")
    position = pl.int_range(pl.len()).over("history_id", "split")
    return ranked.filter(position < most).drop("rank").sort("sample_id")


def texts_of_arm(
    texts: Mapping[str, str | None], histories: pl.DataFrame, arm: str, seed: int
) -> Mapping[str, str | None]:
    """What V reads: the history's own text (``reccot``), none (``plain``), or another user's (``shuffled``)."""
    if arm == "reccot":
        return texts
    if arm == "plain":
        return dict.fromkeys(texts)
    return other_texts(texts, dict(histories.select("history_id", "user_id").iter_rows()), seed)
