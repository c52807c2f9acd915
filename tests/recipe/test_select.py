"""Which candidate is taken, from rewards worked out by hand."""

from __future__ import annotations

import polars as pl
import pytest

from trackrec.recipe.stages.select import START, choose, difference


@pytest.mark.parametrize(
    ("start", "first", "second", "accept", "taken"),
    [
        (0.50, 0.55, 0.60, "always", "candidate-2"),
        (0.50, 0.60, 0.55, "better", "candidate-1"),
        (0.50, 0.60, 0.60, "better", "candidate-1"),  # of equal ones the earlier
        (0.70, 0.55, 0.60, "always", "candidate-2"),
        (0.70, 0.55, 0.60, "better", START),
        (0.60, 0.55, 0.60, "better", START),  # as good is not better
    ],
)
def test_the_best_candidate_is_taken_if_it_is_accepted(start, first, second, accept, taken):
    rewards = {START: start, "candidate-1": first, "candidate-2": second}
    found, why = choose(rewards, accept)
    assert found == taken
    assert f"the start has {start:.4f}" in why


def rows(p_true: list[float]) -> pl.DataFrame:
    """Two users, each with a like; the first has two dislikes as well."""
    users, labels = ["u0", "u0", "u0", "u1"], [1, 0, 0, 1]
    return pl.DataFrame({"sample_id": list("abcd"), "user_id": users, "label": labels, "p_true": p_true})


def test_the_difference_is_of_class_balanced_rewards():
    """Likes .6 and .8, dislikes .5 and .7: (.7 + .6) / 2 = .65; the start (.5 + .6) / 2 = .55."""
    found = difference(rows([0.6, 0.5, 0.7, 0.8]), rows([0.4, 0.6, 0.6, 0.6]), seed=0)
    assert found.value == pytest.approx(0.1)
    assert found.low <= found.value <= found.high
    with pytest.raises(ValueError, match="same rows"):
        difference(rows([0.6, 0.5, 0.7, 0.8]), rows([0.4, 0.6, 0.6, 0.6]).head(3), seed=0)
