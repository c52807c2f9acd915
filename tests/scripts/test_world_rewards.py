"""The correlation of rewards with the truth, within histories."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    folder = str(Path(__file__).parents[2] / "scripts")
    sys.path.insert(0, folder)
    import world_rewards

    yield world_rewards
    sys.path.remove(folder)


def draws(rewards: list[float], shares: list[float | None], histories: list[str], users: list[str]) -> pl.DataFrame:
    return pl.DataFrame(
        {"run": 0, "user_id": users, "history_id": histories, "probability": rewards, "true_share": shares}
    )


def test_levels_of_histories_do_not_count(script: ModuleType) -> None:
    """Centred: (-1, 0, 1) with (-1, 1, 0) / 3, and (-1, 1) / 2 with (-1, 1) / 2; sums .333 + .5, 2.5, .222 + .5.

    Pearson: .8333 / sqrt(2.5 · .7222) = .620. Ranks: 1 + .5 over sqrt(2.5 · 2.5) = .600.
    """
    rows = draws(
        [1.0, 2.0, 3.0, 10.0, 11.0], [0.0, 2 / 3, 1 / 3, 0.0, 1.0], ["h0"] * 3 + ["h1"] * 2, ["u0"] * 3 + ["u1"] * 2
    )
    assert script.correlation(rows, "probability", "true_share", ranks=False).startswith("0.620 [")
    assert script.correlation(rows, "probability", "true_share", ranks=True).startswith("0.600 [")


def test_what_the_world_does_not_decide_is_left_out(script: ModuleType) -> None:
    rows = draws([1.0, 2.0, 99.0], [0.0, 1.0, None], ["h0"] * 3, ["u0"] * 3)
    assert script.correlation(rows, "probability", "true_share", ranks=False) == "1.000 [1.000, 1.000]"
    same = draws([1.0, 2.0], [0.5, 0.5], ["h0"] * 2, ["u0"] * 2)
    assert script.correlation(same, "probability", "true_share", ranks=False) == "–"
