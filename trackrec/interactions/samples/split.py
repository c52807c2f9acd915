"""Splits samples into train, valid and test, and train rows by use: reward the generator or tune the validator."""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl

from trackrec.interactions.source import DataError
from trackrec.storage.atomic import stable_hash

Protocol = Literal["temporal", "user", "given"]
# Rows that are hashed in Python at a time, so that millions of them are never Python objects at the same time.
_CHUNK = 500_000


def split_samples(
    samples: pl.DataFrame, protocol: Protocol, valid: float, test: float, seed: int, given: pl.DataFrame | None = None
) -> pl.Series:
    """The column ``split`` (train | valid | test) of samples that are sorted by time.

    Args:
        samples: In time order, with ``user_id`` and, for ``given``, ``row``.
        protocol: ``temporal``: the last rows are test, those before them valid. ``user``: whole users, shuffled by a
            hash of seed and id, so that the order of two users depends on no other id. ``given``: as published.
        valid: Share of rows (temporal) or of users who have samples (user); for ``given`` without a validation split
            the share of the last train rows that become one.
        test: Likewise.
        seed: Only ``user`` depends on it.
        given: The published splits: row, split.

    Raises:
        DataError: the protocol is ``given``, but nothing was published, or not for every row.
    """
    if protocol == "given":
        if given is None:
            raise DataError(
                "samples.protocol is 'given', but the dataset publishes no splits. Set "
                "dataset.init_args.columns.split to the column with train, valid and test, or samples.protocol to "
                "'temporal' or 'user'."
            )
        splits = samples.select("row").join(given, on="row", how="left", maintain_order="left")["split"]
        if splits.null_count():
            raise DataError(f"samples.protocol is 'given', but {splits.null_count()} samples have no published split.")
        if (given["split"] == "valid").any():
            return splits
        train = (splits == "train").arg_true()
        return splits.scatter(train.tail(round(len(train) * valid)), "valid")
    if protocol == "temporal":
        return _named_shares(samples.height, valid, test)
    users = samples.select(pl.col("user_id").unique())
    shuffled = sorted(users["user_id"], key=lambda user: (stable_hash(seed, user), user))
    assigned = pl.DataFrame({"user_id": shuffled, "split": _named_shares(len(shuffled), valid, test)})
    return samples.select("user_id").join(assigned, on="user_id", how="left", maintain_order="left")["split"]


def assign_use(samples: pl.DataFrame, seed: int) -> pl.Series:
    """The column ``use``: of each class of a history its train rows, in hash order, are "tune" and "reward" by turns.

    Both uses so have likes and dislikes, where there are two of each. The only train row of a class is "tune"; rows of
    other splits are "". The same rows get the same use in every stage and round.

    Args:
        samples: With ``sample_id``, ``history_id``, ``label`` and ``split``.
        seed: Of the shuffle.
    """
    train = samples.select("sample_id", "history_id", "label", pl.col("split") == "train")
    rows = train.with_row_index("index").filter("split")
    chunks = (rows["sample_id"][start : start + _CHUNK].to_list() for start in range(0, rows.height, _CHUNK))
    hashes = np.fromiter((int(stable_hash(key, seed), 16) for keys in chunks for key in keys), np.uint64, rows.height)
    history = rows["history_id"].rank("dense").to_numpy().astype(np.int64)
    dealt = 2 * history + rows["label"].to_numpy()
    order = np.lexsort((hashes, dealt))
    first = np.ones(rows.height, dtype=bool)
    first[1:] = dealt[order][1:] != dealt[order][:-1]
    position = np.arange(rows.height)
    turn = position - np.maximum.accumulate(np.where(first, position, 0))
    use = np.zeros(samples.height, dtype=np.int8)
    use[rows["index"].to_numpy()[order]] = 1 + turn % 2
    return pl.Series("use", use).replace_strict({0: "", 1: "tune", 2: "reward"}, return_dtype=pl.String)


def _named_shares(count: int, valid: float, test: float) -> pl.Series:
    n_test, n_valid = round(count * test), round(count * valid)
    n_train = max(count - n_test - n_valid, 0)
    names = ["train"] * n_train + ["valid"] * n_valid + ["test"] * n_test
    return pl.Series("split", names[:count], dtype=pl.String)
