"""Ratings of any unit as places among the train ratings."""

import numpy as np
import pytest

from trackrec.ctr.features.rating_scale import MAX_KNOTS, RatingScale

STARS = np.array([1, 2, 2, 3, 4, 4, 4, 5], np.float32)


def test_places_by_hand():
    """F(3) is 4/8. A 1 has half of itself below or beside it: 2 (.5/8 - 4/8); a 4 2 (5.5/8 - 4/8)."""
    scale = RatingScale.of(STARS, 3.0)
    wanted = [2 * (0.5 - 4) / 8, 2 * (2 - 4) / 8, 2 * (3.5 - 4) / 8, 2 * (5.5 - 4) / 8, 2 * (7.5 - 4) / 8]
    np.testing.assert_allclose(scale(np.arange(1, 6)), wanted)
    assert scale.liked == pytest.approx((3 * wanted[3] + wanted[4]) / 4)
    assert scale(np.array([0.0, 9.0])).tolist() == [wanted[0], wanted[4]]  # beyond the ratings seen
    assert np.isnan(scale(np.array([np.nan])))


def test_a_rating_that_was_never_seen_keeps_its_side_of_the_threshold():
    scale = RatingScale.of(STARS, 3.0)
    assert scale(np.array([2.5]))[0] < scale(np.array([3.0]))[0] < 0 < scale(np.array([3.1]))[0]
    empty = RatingScale.of(np.array([1.0, 9.0]), 5.0)
    assert empty(np.array([4.9, 5.0]))[0] < 0
    assert empty(np.array([5.0, 5.2]))[1] > 0


@pytest.mark.parametrize("change", [lambda r: 20 * r, lambda r: r**5 - 7, np.exp, lambda r: np.log(r) / 1000])
def test_a_strictly_increasing_map_changes_no_place(change):
    ratings = np.random.default_rng(0).integers(1, 11, 500) / 2.0
    plain, mapped = RatingScale.of(ratings, 3.0), RatingScale.of(change(ratings), float(change(3.0)))
    np.testing.assert_allclose(mapped(change(ratings)), plain(ratings), atol=1e-12)
    assert mapped.liked == pytest.approx(plain.liked)


def test_many_distinct_ratings_keep_a_thousand_knots_and_their_order():
    """Plays with a heavy tail: the largest doesn't press all others together."""
    plays = np.exp(np.random.default_rng(1).normal(5, 2, 20_000))
    scale = RatingScale.of(plays, 50.0)
    assert len(scale.knots) <= MAX_KNOTS + 3
    places = scale(np.sort(plays))
    assert (np.diff(places) >= 0).all()
    share = (np.argsort(np.argsort(plays)) + 0.5) / len(plays) - (plays <= 50).mean()
    np.testing.assert_allclose(scale(plays), 2 * share, atol=0.004)
    assert ((scale(plays) > 0) == (plays > 50)).all()


@pytest.mark.parametrize(("ratings", "threshold"), [([4.0, 5.0], 3.0), ([1.0, 2.0], 3.0), ([2.0], 2.0), ([], 1.0)])
def test_one_class_one_rating_and_none(ratings, threshold):
    scale = RatingScale.of(np.array(ratings), threshold)
    places = scale(np.array([*ratings, threshold]))
    assert np.isfinite(places).all()
    assert np.isfinite(scale.liked)
    assert ((places[:-1] > 0) == (np.array(ratings) > threshold)).all()


def test_a_scale_survives_a_file():
    import json
    from dataclasses import asdict

    scale = RatingScale.of(STARS, 3.0)
    again = RatingScale.saved(json.loads(json.dumps(asdict(scale))))
    np.testing.assert_array_equal(again(STARS), scale(STARS))
