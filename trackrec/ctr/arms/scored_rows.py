"""What V is asked where its log-odds are a feature of the CTR nets: which rows, and with whose texts."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from trackrec.ctr.arms.shuffle import exchange
from trackrec.storage.atomic import stable_hash


def rows_to_score(samples: pl.DataFrame, most: int | None, seed: int) -> pl.DataFrame:
    """At most so many rows of each history and split, chosen by hash; all of them where there is no limit."""
    if most is None:
        return samples
    ranks = [stable_hash("log_odds", seed, key) for key in samples["sample_id"].to_list()]
    ranked = samples.with_columns(rank=pl.Series(ranks, dtype=pl.String)).sort("rank")
    place = pl.int_range(pl.len()).over("history_id", "split")
    return ranked.filter(place < most).drop("rank").sort("sample_id")


def texts_of_arm(
    texts: Mapping[str, str | None], histories: pl.DataFrame, arm: str, seed: int
) -> Mapping[str, str | None]:
    """What V reads: the history's own text (``reccot``), none (``plain``), or another user's (``shuffled``)."""
    if arm == "reccot":
        return texts
    if arm == "plain":
        return dict.fromkeys(texts)
    owners = dict(histories.select("history_id", "user_id").iter_rows())
    ids = sorted(texts)
    other = exchange(range(len(ids)), [owners[key] for key in ids], seed)
    return {key: texts[ids[other[place]]] for place, key in enumerate(ids)}
