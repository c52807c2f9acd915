"""A small generation and the states of its users, for the tests of stores and servers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trackrec.storage.generations import (
    Generation,
    bucket_of,
    finish_generation,
    open_generation,
    part_name,
    set_current,
    write_texts,
)
from trackrec.store.build import States
from trackrec.store.records import StoredState

USERS = ("u1", "u2", "ünï 😀", "with:colon", "%", "")
DIM = 4
MADE_AT = 1_764_547_200


def text_row(user: str, number: int, dim: int = DIM) -> dict[str, object]:
    """A row of a generation; every third user's text failed and has no vector."""
    failed = number % 3 == 2
    return {
        "user_id": user,
        "text": f"{user} likes films of the year {1950 + number}. " * 3,
        "vector": None if failed else (np.arange(dim) / 8 + number).astype(np.float16),
        "prompt_hash": f"hash{number}",
        "n_ratings": 5 + number,
        "newest": MADE_AT - 100 + number,
        "tier": "full",
        "generator": "v1",
        "encoder": "mini",
        "made_at": MADE_AT + number,
        "status": "failed" if failed else "written",
    }


def make_generation(root: Path, name: str = "gen-a", users: Sequence[str] = USERS, dim: int = DIM) -> Generation:
    """A finished generation of two buckets, made the current one."""
    buckets: dict[int, list[dict[str, object]]] = {}
    for number, user in enumerate(users):
        buckets.setdefault(bucket_of(user, 2), []).append(text_row(user, number, dim))
    for bucket, rows in buckets.items():
        write_texts(root / name / part_name("full", bucket), rows, {})
    info: dict[str, Any] = {"name": name, "made_at": MADE_AT, "parent": None, "run": {}, "encoder": "mini", "dim": dim}
    info |= {"buckets": 2, "tiers": {"full": len(users)}, "generators": {}, "reasons": {}}
    finish_generation(root / name, info)
    set_current(root, name)
    return open_generation(root)


def made_states(users: Sequence[str] = USERS) -> States:
    """The states of users; the first has no vector."""
    rows = ((user, StoredState(f"state of {user}".encode(), vector_of(number))) for number, user in enumerate(users))
    return States("bundle-digest", rows)


def vector_of(number: int) -> NDArray[np.float32] | None:
    """The vector of a state."""
    return np.full(DIM, number / 3, np.float32) if number else None
