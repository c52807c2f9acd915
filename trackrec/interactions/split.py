"""Who trains, who validates, who tests; and which train rows reward the generator and which tune the validator."""

from __future__ import annotations

from typing import Literal

import polars as pl

from trackrec.tables import stable_hash

Protocol = Literal["temporal", "user"]


def split_samples(samples: pl.DataFrame, protocol: Protocol, valid: float, test: float, seed: int) -> pl.Series:
    """The column ``split`` (train | valid | test) of samples that are sorted by time.

    Args:
        samples: In time order, with ``user_id``.
        protocol: ``temporal``: the last rows are test, those before them valid. ``user``: whole users, shuffled by a
            hash of seed and id, so that a user's place depends on nobody else's id.
        valid: Share of rows (temporal) or of users who have samples (user).
        test: Likewise.
        seed: Only ``user`` depends on it.
    """
    if protocol == "temporal":
        return _named_shares(samples.height, valid, test)
    users = samples.select(pl.col("user_id").unique())
    shuffled = sorted(users["user_id"], key=lambda user: (stable_hash(seed, user), user))
    places = pl.DataFrame({"user_id": shuffled, "split": _named_shares(len(shuffled), valid, test)})
    return samples.select("user_id").join(places, on="user_id", how="left", maintain_order="left")["split"]


def assign_use(samples: pl.DataFrame, seed: int) -> pl.Series:
    """The column ``use``: a history's train rows, in hash order, are "tune" and "reward" by turns; other rows are "".

    A history with one train row gives it to "tune". The same rows get the same use in every stage and round.

    Args:
        samples: With ``sample_id``, ``history_id`` and ``split``.
        seed: Of the shuffle.
    """
    order = pl.Series("order", [stable_hash(sample, seed) for sample in samples["sample_id"]], dtype=pl.String)
    train = pl.col("split") == "train"
    turn = pl.struct("order", "sample_id").rank("ordinal").over("history_id", "split") - 1
    use = pl.when(~train).then(pl.lit("")).when(turn % 2 == 0).then(pl.lit("tune")).otherwise(pl.lit("reward"))
    return samples.with_columns(order).select(use.alias("use"))["use"]


def _named_shares(count: int, valid: float, test: float) -> pl.Series:
    n_test, n_valid = round(count * test), round(count * valid)
    n_train = max(count - n_test - n_valid, 0)
    names = ["train"] * n_train + ["valid"] * n_valid + ["test"] * n_test
    return pl.Series("split", names[:count], dtype=pl.String)
