"""Exchanges entries between users, and picks users by hash, for the placebos and the coverage arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from trackrec.runtime.errors import SettingError
from trackrec.storage.atomic import stable_hash

T = TypeVar("T")
Seed = int | tuple[int, int]  # of the run, or of the run and of a net's training


def exchange(entries: Sequence[int], owners: Sequence[str], seed: Seed) -> dict[int, int]:
    """Map each entry to one of another owner: owners form one random cycle (Sattolo 1986), so nobody keeps their own.

    Raises:
        SettingError: fewer than two owners.
    """
    owned: dict[str, list[int]] = {}
    for entry, owner in zip(entries, owners, strict=True):
        owned.setdefault(owner, []).append(entry)
    if len(owned) < 2:
        raise SettingError(
            f"shuffling needs the texts of two users (arm 'shuffled', another user's text), there are {len(owned)}."
        )
    cycle = np.random.default_rng(seed).permutation(sorted(owned)).tolist()
    return {
        entry: owned[other][position % len(owned[other])]
        for user, other in zip(cycle, cycle[1:] + cycle[:1], strict=True)
        for position, entry in enumerate(owned[user])
    }


def other_texts(texts: Mapping[str, T], owners: Mapping[str, str], seed: Seed) -> dict[str, T]:
    """For each history the text about another user's.

    Args:
        texts: by history.
        owners: the user of each history.
        seed: of the exchange.

    Raises:
        SettingError: they are about fewer than two users.
    """
    ids = sorted(texts)
    other = exchange(range(len(ids)), [owners[key] for key in ids], seed)
    return {key: texts[ids[other[index]]] for index, key in enumerate(ids)}


def some_users(users: set[str], share: float, seed: Seed) -> set[str]:
    """A share of the users, by hash; at least one. A smaller share is a subset of a larger one."""
    ranked = sorted(users, key=lambda user: stable_hash("coverage", seed, user))
    return set(ranked[: max(1, round(share * len(ranked)))])
