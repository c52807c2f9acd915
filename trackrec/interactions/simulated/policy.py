"""A logging policy with position bias in the simulated world, and the click rate that a model would get online.

A list shows ``length`` of the ``pool`` films that a user could see. A user examines position r of it with a
known probability and clicks films that are examined and liked. So films that the logging ranker put high get more
clicks than their likes explain. Weighting by the known propensities removes that bias (Horvitz and Thompson 1952; for
clicks Joachims, Swaminathan and Schnabel 2017, arXiv 1608.04468).

Shapes: L lists, P pool, K length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trackrec.interactions.simulated.world import Float, World
from trackrec.interactions.source import DataError

Int = NDArray[np.int64]


@dataclass(frozen=True)
class LoggingPolicy:
    """How lists are shown and examined.

    Attributes:
        pool: films that a list could show.
        length: films that it shows.
        explore: share of lists in random order; without it films outside the top are never shown, and no weight can
            correct that.
        bias: position r = 1, 2, ... is examined with probability r to the power of minus this.
    """

    pool: int = 30
    length: int = 10
    explore: float = 0.2
    bias: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.length <= self.pool:
            raise DataError(f"length must be in 1..{self.pool}, the pool, got {self.length}.")
        if not 0 < self.explore <= 1:
            raise DataError(f"explore must be in (0, 1], got {self.explore}.")
        if self.bias < 0:
            raise DataError(f"bias must be at least 0, got {self.bias}.")

    def examined(self, places: Int) -> Float:
        """P(a position is examined), positions from 0; the probability is 0 from ``length`` on."""
        return np.where(places < self.length, (1.0 + places) ** -self.bias, 0.0)


class ClickLog(NamedTuple):
    """L lists as they were shown. All but ``users`` are (L, P).

    Attributes:
        users: (L,) user numbers.
        items: item numbers of the pool.
        places: position in the list, from 0; films at ``length`` and above were not shown.
        clicks: 1 where the film was examined and liked.
        propensity: P(the film is examined), over the policy's randomness and the user's.
    """

    users: Int
    items: Int
    places: Int
    clicks: Int
    propensity: Float


def ranks(scores: Float) -> Int:
    """Position of each film of a list by descending score, from 0: (L, P). Equal scores keep their order."""
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.argsort(order, axis=1, kind="stable").astype(np.int64)


def draw_pools(world: World, policy: LoggingPolicy, lists: int, seed: int) -> tuple[Int, Int]:
    """Users (L,) and pools (L, P), where L is ``lists``."""
    rng = np.random.default_rng([seed, 3])
    items = len(world.titles)
    pools = [rng.choice(items, size=policy.pool, replace=False) for _ in range(lists)]
    return rng.integers(0, len(world.generosity), lists), np.stack(pools)


def log_clicks(world: World, policy: LoggingPolicy, users: Int, items: Int, scores: Float, seed: int) -> ClickLog:
    """Show lists by the logging ranker's ``scores`` (L, P), a share of them in random order, and log the clicks."""
    rng = np.random.default_rng([seed, 4])
    ranked = ranks(scores)
    shuffled = rng.permuted(np.tile(np.arange(policy.pool), (len(users), 1)), axis=1)
    places = np.where(rng.random((len(users), 1)) < policy.explore, shuffled, ranked)
    likes = rng.random(items.shape) < true_likes(world, users, items)
    clicks = likes & (rng.random(items.shape) < policy.examined(places))
    mean_examined = policy.examined(np.arange(policy.pool)).mean()
    propensity = policy.explore * mean_examined + (1 - policy.explore) * policy.examined(ranked)
    return ClickLog(users, items, places, clicks.astype(np.int64), propensity)


def true_likes(world: World, users: Int, items: Int) -> Float:
    """P(like) of every film of every pool: (L, P)."""
    flat = world.probability(np.repeat(users, items.shape[1]), items.ravel())
    return flat.reshape(items.shape)


def online_ctr(world: World, policy: LoggingPolicy, users: Int, items: Int, scores: Float) -> float:
    """Clicks per film shown if the lists followed ``scores``: exact, from the world's probabilities."""
    examined = policy.examined(ranks(scores))
    return float((examined * true_likes(world, users, items)).sum() / (len(users) * policy.length))


def click_auc(log: ClickLog, policy: LoggingPolicy, scores: Float) -> float:
    """AUC of scores (L, P) against the clicks on the films shown, as a log is usually read."""
    shown = log.places < policy.length
    clicks: Float = log.clicks[shown].astype(np.float64)
    return pair_auc(scores[shown], clicks, 1 - clicks)


def weighted_click_auc(log: ClickLog, scores: Float) -> float:
    """AUC of scores (L, P) against the likes, estimated from clicks by their propensities.

    Over all films of the pools, click / propensity is a like on average, and 1 minus it a dislike. The estimate is the
    ratio of two unbiased sums over pairs of different films, where two films of one list are taken as independent.
    """
    likes = log.clicks / log.propensity
    return pair_auc(scores.ravel(), likes.ravel(), 1.0 - likes.ravel())


def weighted_ctr(log: ClickLog, policy: LoggingPolicy, scores: Float) -> float:
    """`online_ctr` of scores (L, P) estimated from the log by inverse propensity."""
    likes = log.clicks / log.propensity
    return float((policy.examined(ranks(scores)) * likes).sum() / (len(log.users) * policy.length))


def pair_auc(scores: Float, likes: Float, dislikes: Float) -> float:
    """Σ_{i≠j} likes_i dislikes_j [s_i > s_j] over Σ_{i≠j} likes_i dislikes_j, ties counting half. All (N,)."""
    _, group = np.unique(scores, return_inverse=True)
    up = np.bincount(group, likes)
    down = np.bincount(group, dislikes)
    below = np.cumsum(down) - down
    self_pairs = float((likes * dislikes).sum())  # pairs of a film with itself
    wins = float((up * (below + 0.5 * down)).sum()) - 0.5 * self_pairs
    return wins / (float(likes.sum() * dislikes.sum()) - self_pairs)
