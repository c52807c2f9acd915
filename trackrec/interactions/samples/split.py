"""Who trains, who validates, who tests; and which train rows reward the generator and which tune the validator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import polars as pl

from trackrec.interactions.source import DataError
from trackrec.storage.atomic import stable_hash

Protocol = Literal["temporal", "user", "given"]
# Hashes are made in Python by so many at a time, so that millions of them never lie there as objects.
_CHUNK = 500_000


def split_samples(
    samples: pl.DataFrame, protocol: Protocol, valid: float, test: float, seed: int, given: pl.DataFrame | None = None
) -> pl.Series:
    """The column ``split`` (train | valid | test) of samples that are sorted by time.

    Args:
        samples: In time order, with ``user_id`` and, for ``given``, ``row``.
        protocol: ``temporal``: the last rows are test, those before them valid. ``user``: whole users, shuffled by a
            hash of seed and id, so that a user's place depends on nobody else's id. ``given``: as published.
        valid: Share of rows (temporal) or of users who have samples (user); for ``given`` without a validation split
            the share of train rows, the last, that become one.
        test: Likewise.
        seed: Only ``user`` depends on it.
        given: The published splits: row, split.

    Raises:
        DataError: the protocol is ``given``, but nothing was published, or not for every row.
    """
    if protocol == "given":
        if given is None:
            raise DataError(
                "samples.protocol is 'given', but the dataset publishes no splits. Set dataset.init_args.split to the "
                "column with train, valid and test, or samples.protocol to 'temporal' or 'user'."
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
    places = pl.DataFrame({"user_id": shuffled, "split": _named_shares(len(shuffled), valid, test)})
    return samples.select("user_id").join(places, on="user_id", how="left", maintain_order="left")["split"]


def assign_use(samples: pl.DataFrame, seed: int) -> pl.Series:
    """The column ``use``: a history's train rows, in hash order, are "tune" and "reward" by turns; other rows are "".

    A history with one train row gives it to "tune". The same rows get the same use in every stage and round.

    Args:
        samples: With ``sample_id``, ``history_id`` and ``split``.
        seed: Of the shuffle.
    """
    train = samples.select("sample_id", "history_id", pl.col("split") == "train")
    rows = train.with_row_index("at").filter("split")
    order = np.fromiter((int(stable_hash(key, seed), 16) for key in _each(rows["sample_id"])), np.uint64, rows.height)
    history = rows.select(pl.col("history_id").rank("dense"))["history_id"].to_numpy()
    by_turn = np.lexsort((order, history))
    first = np.ones(rows.height, dtype=bool)
    first[1:] = history[by_turn][1:] != history[by_turn][:-1]
    place = np.arange(rows.height)
    turn = place - np.maximum.accumulate(np.where(first, place, 0))
    use = np.zeros(samples.height, dtype=np.int8)
    use[rows["at"].to_numpy()[by_turn]] = 1 + turn % 2
    return pl.Series("use", use).replace_strict({0: "", 1: "tune", 2: "reward"}, return_dtype=pl.String)


def _each(values: pl.Series) -> Iterator[str]:
    for start in range(0, len(values), _CHUNK):
        yield from values[start : start + _CHUNK].to_list()


def _named_shares(count: int, valid: float, test: float) -> pl.Series:
    n_test, n_valid = round(count * test), round(count * valid)
    n_train = max(count - n_test - n_valid, 0)
    names = ["train"] * n_train + ["valid"] * n_valid + ["test"] * n_test
    return pl.Series("split", names[:count], dtype=pl.String)
