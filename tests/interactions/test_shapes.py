"""The made-up files of `shapes`: what they all hold."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from shapes import ITEMS, PER_USER, SHAPES, USERS, ratings


def test_every_user_has_rated_and_both_labels_occur() -> None:
    rows = ratings()
    assert Counter(row.user for row in rows) == dict.fromkeys(range(USERS), PER_USER)
    assert len({(row.user, row.item) for row in rows}) == len(rows)
    assert {row.item for row in rows} == set(range(ITEMS))
    assert 200 < sum(row.stars > 3 for row in rows) < 550


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_written_the_same_each_time(name: str, tmp_path: Path) -> None:
    first, second = (SHAPES[name](tmp_path / part) for part in "ab")
    assert first.parent == tmp_path / "a"
    assert {path.name: path.read_bytes() for path in first.parent.iterdir()} == {
        path.name: path.read_bytes() for path in second.parent.iterdir()
    }
