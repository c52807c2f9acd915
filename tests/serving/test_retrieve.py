"""Candidates of a user, worked out by hand on a catalogue of six items."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from trackrec.ctr.features.rating_scale import RatingScale
from trackrec.serving.ranker import Answers
from trackrec.serving.retrieve import Retriever, recommend
from trackrec.serving.users import UserState

ITEMS = ["a", "b", "c", "d", "e", "f"]


@pytest.fixture
def bundle(tmp_path: Path) -> Any:
    """Most liked: c, a, then the others in their order. b is like d and unlike e; f has no neighbours."""
    pl.DataFrame({"item_id": ITEMS, "likes": [5, 1, 9, 1, 1, 1]}).write_parquet(tmp_path / "items.parquet")
    np.save(tmp_path / "item_vectors.npy", np.eye(6, dtype=np.float16))
    weights = np.zeros((5, 5), np.float32)
    weights[1, 3] = weights[3, 1] = 0.5
    weights[1, 4] = weights[4, 1] = -0.5
    return SimpleNamespace(
        path=tmp_path,
        info={"files": {"item_vectors.npy": {}}},
        item_ids=ITEMS,
        item_rows={item: row for row, item in enumerate(ITEMS, start=1)},
        kept=np.array([-1, 0, 1, 2, 3, 4, -1]),
        weights=weights,
        expected=np.zeros(7, np.float32),
        scale=RatingScale(3.0, (1.0, 5.0), (-1.0, 1.0), liked=0.75),
        recent_len=2,
        history_statistics="all",
    )


def test_the_lists_take_turns_and_name_what_they_found(bundle):
    text = np.array([0, 0, 0.1, 0, 0, 1.0], np.float16)
    found = Retriever(bundle).candidates(UserState("u", ("b",), (5.0,), text=text), 4)
    assert found.items == ["c", "d", "f", "a"]
    both = ("popular", "text")
    assert found.found_by == [both, ("popular", "neighbours", "text"), ("text",), both]
    without_text = Retriever(bundle).candidates(UserState("u", ("b",), (5.0,), text=text), 4, text=False)
    assert without_text.items == ["c", "d", "a", "e"]


def test_a_disliked_item_brings_what_is_unlike_it(bundle):
    found = Retriever(bundle).candidates(UserState("u", ("b",), (1.0,)), 9)
    assert found.found_by[found.items.index("e")] == ("popular", "neighbours")
    assert found.found_by[found.items.index("d")] == ("popular",)
    # an item that was chosen without a rating counts as a like; only the newest ratings count
    chosen = Retriever(bundle).candidates(UserState("u", ("b",), (None,)), 9)
    assert "neighbours" in chosen.found_by[chosen.items.index("d")]
    old = Retriever(bundle).candidates(UserState("u", ("b", "a", "c"), (5.0, 5.0, 5.0)), 9)
    assert all("neighbours" not in names for names in old.found_by)


def test_seen_items_are_left_out_wherever_they_stand(bundle):
    state = UserState("u", ("a", "elsewhere"), (5.0, 1.0), ("b",), (2.0,), seen=("c",))
    assert Retriever(bundle).candidates(state, 9, without=["f"]).items == ["d", "e"]
    assert Retriever(bundle).candidates(state, 9, without=ITEMS).items == []


def test_a_stranger_gets_the_most_liked(bundle):
    found = Retriever(bundle).candidates(UserState("u"), 3)
    assert found.items == ["c", "a", "b"]
    assert set(found.found_by) == {("popular",)}


def test_recommended_are_the_best_of_the_candidates_by_the_ranker(bundle):
    chances = {"c": 0.1, "a": 0.9, "b": 0.5, "d": 0.99}

    def answer(user: UserState, items: list[str]) -> Answers:
        return Answers(np.array([chances[item] for item in items], np.float32), ["none"] * len(items))

    ranker: Any = SimpleNamespace(answer=answer)
    found = recommend(ranker, Retriever(bundle), UserState("u"), k=2, n_candidates=3)
    assert [(one.item, round(one.p, 2), one.found_by) for one in found] == [
        ("a", 0.9, ("popular",)),
        ("b", 0.5, ("popular",)),
    ]
    assert recommend(ranker, Retriever(bundle), UserState("u"), k=2, without=ITEMS) == []
