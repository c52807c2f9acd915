"""V's numbers on scored rows: whether it reads the text it is given."""

from __future__ import annotations

import polars as pl
import pytest

from trackrec.validator.evaluate import text_use


def rows(*p_yes: float) -> pl.DataFrame:
    """Two users with a dislike and a like each: P(Yes) of the four rows."""
    table = {"sample_id": ["a", "b", "c", "d"], "user_id": ["u0", "u0", "u1", "u1"], "label": [0, 1, 0, 1]}
    return pl.DataFrame(table).with_columns(p_yes=pl.Series(p_yes))


def test_text_use_is_the_auc_that_the_own_text_adds() -> None:
    """Of the four pairs of a dislike and a like, all are in order with the own texts, and one with the others'.

    With .6 and .5 for the dislikes against .4 and .55 for the likes only .55 over .5 is right: AUC .25. With one user
    drawn twice the AUC of u0 is 1 against 0, that of u1 1 against 1: so the interval goes from 0 to 1.
    """
    found = text_use(rows(0.2, 0.8, 0.3, 0.9), rows(0.6, 0.4, 0.5, 0.55), seed=0)
    assert found.value == pytest.approx(0.75)
    assert (found.low, found.high, found.n) == (0.0, 1.0, 4)


def test_a_v_that_reads_nothing_uses_no_text() -> None:
    same = rows(0.2, 0.8, 0.3, 0.9)
    assert text_use(same, same, seed=0)[:3] == (0.0, 0.0, 0.0)


def test_other_rows_are_an_error() -> None:
    with pytest.raises(ValueError, match="two scorings of different rows: 4 and 3"):
        text_use(rows(0.2, 0.8, 0.3, 0.9), rows(0.2, 0.8, 0.3, 0.9).head(3), seed=0)
