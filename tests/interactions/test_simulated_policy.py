"""Clicks under position bias: a log misleads, its propensities repair it, whatever the seed."""

from __future__ import annotations

import numpy as np
import pytest

from trackrec.interactions import DataError
from trackrec.interactions.simulated.policy import (
    LoggingPolicy,
    click_auc,
    draw_pools,
    log_clicks,
    online_ctr,
    pair_auc,
    ranks,
    true_likes,
    weighted_click_auc,
    weighted_ctr,
)
from trackrec.interactions.simulated.world import WorldRules, draw_world

POLICY = LoggingPolicy()
SEEDS = range(8)


class Logged:
    """A log of a ranker that knows nothing of tastes, and two models: its copy, and a weak reader of tastes."""

    def __init__(self, seed: int, lists: int = 3000) -> None:
        self.world = draw_world(300, 200, seed, WorldRules())
        self.users, self.items = draw_pools(self.world, POLICY, lists, seed)
        rng = np.random.default_rng(seed)
        self.p = true_likes(self.world, self.users, self.items)
        shown_by = rng.normal(size=200)[self.items]
        self.copy = shown_by + rng.normal(0, 0.1, self.items.shape)
        self.taste = np.log(self.p / (1 - self.p)) + rng.normal(0, 3, self.items.shape)
        self.log = log_clicks(self.world, POLICY, self.users, self.items, shown_by, seed)

    def online(self, scores: np.ndarray) -> float:
        return online_ctr(self.world, POLICY, self.users, self.items, scores)


@pytest.mark.parametrize("seed", SEEDS)
def test_clicks_prefer_the_copy_and_users_do_not(seed: int) -> None:
    made = Logged(seed)
    assert made.online(made.taste) > 1.2 * made.online(made.copy)
    assert click_auc(made.log, POLICY, made.copy) > click_auc(made.log, POLICY, made.taste) + 0.02
    assert weighted_click_auc(made.log, made.taste) > weighted_click_auc(made.log, made.copy) + 0.05
    assert weighted_ctr(made.log, POLICY, made.taste) > weighted_ctr(made.log, POLICY, made.copy)


def test_weighted_numbers_are_unbiased() -> None:
    """Over the seeds they average to the true ones within four standard errors."""
    made = [Logged(seed, lists=1500) for seed in SEEDS]
    for name in ("copy", "taste"):
        gaps = []
        for one in made:
            scores = getattr(one, name)
            due = pair_auc(scores.ravel(), one.p.ravel(), 1 - one.p.ravel())
            ctr = weighted_ctr(one.log, POLICY, scores) - one.online(scores)
            gaps.append((weighted_click_auc(one.log, scores) - due, ctr))
        means, errors = np.mean(gaps, axis=0), np.std(gaps, axis=0, ddof=1) / np.sqrt(len(gaps))
        assert (np.abs(means) < 4 * errors).all()


def test_propensities_are_how_often_a_film_is_examined() -> None:
    """Ten thousand lists of one pool under one ranker: where the film at rank r was examined, on average."""
    world = draw_world(10, 200, 0, WorldRules())
    pool = np.tile(np.arange(POLICY.pool), (10_000, 1))
    scores = np.tile(np.arange(POLICY.pool, 0, -1.0), (10_000, 1))
    log = log_clicks(world, POLICY, np.zeros(10_000, np.int64), pool, scores, seed=1)
    examined = POLICY.examined(log.places).mean(0)
    assert examined == pytest.approx(log.propensity[0], abs=0.015)
    assert (log.propensity > 0).all()


def test_a_random_policy_without_bias_needs_no_weights() -> None:
    policy = LoggingPolicy(pool=20, length=20, explore=1.0, bias=0.0)
    world = draw_world(300, 200, 1, WorldRules())
    users, items = draw_pools(world, policy, 800, 1)
    p = true_likes(world, users, items)
    log = log_clicks(world, policy, users, items, np.zeros(items.shape), 1)
    assert (log.propensity == 1).all()
    assert click_auc(log, policy, p) == pytest.approx(weighted_click_auc(log, p))


def test_ranks_are_places_by_descending_score() -> None:
    assert ranks(np.array([[0.1, 0.9, 0.5], [1.0, 1.0, 2.0]])).tolist() == [[2, 0, 1], [1, 2, 0]]


def test_online_ctr_by_hand() -> None:
    """Two places of three films, examined 1 and 1/2: (1 · p_best + p_second / 2) / 2."""
    policy = LoggingPolicy(pool=3, length=2)
    world = draw_world(5, 200, 0, WorldRules())
    users, items = np.array([2]), np.array([[4, 5, 6]])
    p = true_likes(world, users, items)[0]
    assert online_ctr(world, policy, users, items, np.array([[1.0, 3.0, 2.0]])) == pytest.approx((p[1] + p[2] / 2) / 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"length": 40}, "length must be in 1..30"), ({"explore": 0.0}, "explore"), ({"bias": -1.0}, "bias")],
)
def test_bad_policies_are_named(values: dict[str, float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        LoggingPolicy(**values)  # type: ignore[arg-type]
