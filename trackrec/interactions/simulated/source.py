"""Ratings from a simulated world, and the truth behind them: probabilities, upper bounds, and which claims hold."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from trackrec.interactions.simulated.claims import Claim, read_claims
from trackrec.interactions.simulated.policy import pair_auc
from trackrec.interactions.simulated.words import GENRE_NAMES
from trackrec.interactions.simulated.world import Float, Taste, World, WorldRules, draw_tastes, draw_world, genre_shares
from trackrec.interactions.source import DataError, Ratings, RatingSource
from trackrec.metrics.scores import accuracy, auc

_START = 1_100_000_000  # seconds UTC
_SPAN = 4 * 365 * 86_400
# Tastes drawn to compute ``told_auc``; four times as many change it by less than .001.
_BELIEF_DRAWS = 5_000


class Ceiling(NamedTuple):
    """AUC and ACC of predicting the true probabilities on some rows.

    Attributes:
        expected_auc: AUC over fresh draws of the labels, see `expected_auc`.
        expected_acc: mean of max(p, 1 - p).
        auc: on the labels of the rows.
        acc: on the labels of the rows.
    """

    expected_auc: float
    expected_acc: float
    auc: float
    acc: float


class TextCheck(NamedTuple):
    """How many claims of a text are true, false or unknown; ``unparsable`` counts clauses that no rule reads."""

    true: int
    false: int
    unknown: int
    unparsable: int


def expected_auc(scores: ArrayLike, p: ArrayLike) -> float:
    """AUC of scores whose labels are drawn from known probabilities, without drawing them.

    Σ_{i≠j} p_i (1 - p_j) [s_i > s_j] / Σ_{i≠j} p_i (1 - p_j), ties counting half: the probability that a liked row
    ranks above another, disliked one. Without the labels' noise it needs fewer rows to tell two rankings apart.

    Args:
        scores: (N,).
        p: (N,) P(label = 1) of each row.
    """
    prob = np.asarray(p, np.float64)
    return pair_auc(np.asarray(scores, np.float64), prob, 1 - prob)


class Truth:
    """The hidden parameters of a world, by the ids of its tables. No stage reads them.

    Args:
        world: all items and users.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._items = {title: number for number, title in enumerate(world.titles)}

    def probability(self, user_ids: Sequence[str], item_ids: Sequence[str]) -> Float:
        """P(like) of pairs of ids: (N,)."""
        return self.world.probability(_numbers(user_ids), _numbers(item_ids))

    def taste(self, user_id: str) -> Taste:
        """A user's true profile."""
        return self.world.taste(int(user_id[1:]))

    def ceiling(self, samples: pl.DataFrame) -> Ceiling:
        """The upper bounds on rows of the samples table (user_id, item_id, label)."""
        p = self.probability(samples["user_id"].to_list(), samples["item_id"].to_list())
        labels = samples["label"].to_numpy()
        return Ceiling(expected_auc(p, p), float(np.maximum(p, 1 - p).mean()), auc(p, labels), accuracy(p, labels))

    def told_by(self, histories: pl.DataFrame, samples: pl.DataFrame, threshold: float, draws: int = 20_000) -> Float:
        """P(like | history), given the world's rules and all items, but not the user's taste.

        Tastes are drawn from the rules and weighted by the likelihood of the history. Ranking by this is the upper
        bound for any model that sees only histories.

        Args:
            histories: the histories table.
            samples: rows whose history is in ``histories``.
            threshold: a rating above it is a like.
            draws: number of tastes drawn.

        Returns:
            (N,) for the rows of ``samples``.
        """
        rules = self.world.rules
        items = genre_shares(self.world.genres, rules.second)
        weights, eras, generosity = draw_tastes(np.random.default_rng([draws, 2]), draws, rules)
        new = np.where(self.world.years >= rules.turn, 1.0, -1.0)
        logits = (weights @ items.T + np.outer(eras, new) + generosity[:, None]).astype(np.float32)  # (draws, I)
        logits += (rules.base + self.world.quality).astype(np.float32)
        log_like = -np.logaddexp(0, -logits)
        log_dislike = -np.logaddexp(0, logits)
        p_like = np.exp(log_like)
        probabilities = np.zeros(samples.height)
        rows = samples.with_row_index("index").group_by("history_id").agg("index", "item_id")
        targets = {history_id: (indices, item_ids) for history_id, indices, item_ids in rows.iter_rows()}
        for history_id, item_ids, ratings in histories.select("history_id", "item_ids", "ratings").iter_rows():
            if history_id not in targets:
                continue
            liked = np.asarray(ratings) > threshold
            seen = _numbers(item_ids)
            fit = log_like[:, seen[liked]].sum(1) + log_dislike[:, seen[~liked]].sum(1)
            belief = np.exp(fit - fit.max())
            indices, target_ids = targets[history_id]
            probabilities[indices] = (belief / belief.sum()) @ p_like[:, _numbers(target_ids)]
        return probabilities

    def check(self, user_id: str, text: str) -> TextCheck:
        """Count a text's true, false and unknown claims about a user."""
        claims, unparsable = read_claims(text)
        verdicts = Counter(self.holds(user_id, claim) for claim in claims)
        return TextCheck(verdicts[True], verdicts[False], verdicts[None], len(unparsable))

    def holds(self, user_id: str, claim: Claim) -> bool | None:
        """Whether a claim about a user is true; None if the user's taste doesn't decide it."""
        user = int(user_id[1:])
        taste = self.taste(user_id)
        if claim.about == "genre":
            weight = self.world.weights[user, GENRE_NAMES.index(claim.name)]
            return None if weight == 0 else bool((weight > 0) == claim.positive)
        if claim.about == "never":
            return claim.name == taste.never
        if claim.about == "era":
            return None if taste.era is None else (claim.name == taste.era) == claim.positive
        if claim.about == "decade":
            era = "old" if int(claim.name) < self.world.rules.turn else "new"
            return None if taste.era is None else (era == taste.era) == claim.positive
        if claim.about == "generosity":
            limit = self.world.rules.generosity / 2
            kind = "generous" if taste.generosity > limit else "harsh" if taste.generosity < -limit else "balanced"
            return claim.name == kind
        item = self._items.get(claim.name)
        if item is None:
            return None
        return bool(self.world.probability(np.array([user]), np.array([item]))[0] > 0.5) == claim.positive


class Simulated(RatingSource):
    """Ratings of a simulated world. Its hidden parameters are known and never written into a table.

    The items table shows titles, years and genres; the users table shows nothing. `WorldRules` says what a rating
    depends on; `truth` returns it.

    Args:
        users: number of users.
        items: number of items.
        seed: of the world, which doesn't depend on the run's seed.
        rules: how the world is drawn.

    Raises:
        DataError: a number is out of range.
    """

    threshold = 3.0

    def __init__(self, users: int = 800, items: int = 400, seed: int = 1, rules: WorldRules | None = None) -> None:
        self.users, self.items, self.seed, self.rules = users, items, seed, rules or WorldRules()
        if users < 1:
            raise DataError(f"dataset.init_args.users must be at least 1, got {users}.")
        if items < 2 * self.rules.most:
            raise DataError(
                f"dataset.init_args.items must be at least {2 * self.rules.most}, twice the most ratings of a user "
                f"(rules.most), got {items}."
            )
        if seed < 0:
            raise DataError(f"dataset.init_args.seed must be at least 0, got {seed}.")

    @cached_property
    def _world(self) -> World:
        return draw_world(self.users, self.items, self.seed, self.rules)

    def truth(self) -> Truth:
        """The hidden parameters of the world, for reports and tests."""
        return Truth(self._world)

    def read(self) -> Ratings:
        """The three tables; see `RatingSource.read`."""
        world = self._world
        item_ids = [f"i{number}" for number in range(self.items)]
        items = pl.DataFrame(
            {
                "item_id": item_ids,
                "title": world.titles,
                "attributes": [[GENRE_NAMES[genre] for genre in indices] for indices in world.genres],
                "year": pl.Series(world.years, dtype=pl.Int32),
            }
        )
        user_ids = [f"u{number}" for number in range(self.users)]
        no_attributes = pl.Series("attributes", [[] for _ in user_ids], dtype=pl.List(pl.String))
        users = pl.DataFrame({"user_id": user_ids, "attributes": no_attributes})
        interactions = self._ratings()
        counts = {"items": items.height, "users": users.height, "ratings": interactions.height}
        return Ratings(items, users, interactions, counts)

    def ceilings(self, samples: pl.DataFrame, histories: pl.DataFrame, threshold: float) -> dict[str, float]:
        """See `RatingSource.ceilings`. They are expectations over fresh labels, so no label is read."""
        if samples.is_empty():
            return {}
        truth = self.truth()
        ceiling = truth.ceiling(samples)
        p = truth.probability(samples["user_id"].to_list(), samples["item_id"].to_list())
        p_from_history = truth.told_by(histories, samples, threshold, draws=_BELIEF_DRAWS)
        accuracy_from_history = float(np.where(p_from_history > 0.5, p, 1 - p).mean())
        return {
            "bayes_auc": ceiling.expected_auc,
            "bayes_acc": ceiling.expected_acc,
            "told_auc": expected_auc(p_from_history, p),
            "told_acc": accuracy_from_history,
        }

    def _ratings(self) -> pl.DataFrame:
        """Every user's ratings of items drawn by popularity, from a random start time per user, sorted by time."""
        rng = np.random.default_rng([self.seed, 2])
        rules = self.rules
        world = self._world
        popularity = (1.0 + rng.permutation(self.items)) ** -rules.popularity
        popularity /= popularity.sum()
        numbers = rng.integers(rules.fewest, rules.most + 1, self.users)
        drawn = [rng.choice(self.items, size=number, replace=False, p=popularity) for number in numbers]
        users = np.repeat(np.arange(self.users), numbers)
        items = np.concatenate(drawn)
        p = world.probability(users, items)
        likes = rng.random(p.size) < p
        # Above the threshold exactly where the row is a like; how far above or below depends on p.
        ratings = np.where(likes, 4 + (rng.random(p.size) < p), 3 - rng.binomial(2, 1 - p))
        steps = rng.integers(60, 14 * 86_400, p.size)
        elapsed = np.concatenate([[0], np.cumsum(steps)])
        first = np.concatenate([[0], np.cumsum(numbers)[:-1]])
        since_first = elapsed[1:] - np.repeat(elapsed[first], numbers)
        times = _START + np.repeat(rng.integers(0, _SPAN, self.users), numbers) + since_first
        frame = pl.DataFrame(
            {
                "user_id": [f"u{number}" for number in users],
                "item_id": [f"i{number}" for number in items],
                "rating": pl.Series(ratings, dtype=pl.Float32),
                "timestamp": pl.Series(times, dtype=pl.Int64),
            }
        ).sort("timestamp", "user_id", "item_id")
        return frame.with_row_index("row").select(
            "user_id", "item_id", "rating", "timestamp", pl.col("row").cast(pl.Int64)
        )

    def content_key(self) -> dict[str, str]:
        """The hash of the tables: with the same settings another NumPy release may draw other random numbers."""
        ratings = self.read()
        text = "".join(getattr(ratings, name).write_ndjson() for name in ("items", "users", "interactions"))
        return {"world": hashlib.sha256(text.encode()).hexdigest()}


def _numbers(ids: Sequence[str]) -> NDArray[np.int64]:
    return np.array([int(name[1:]) for name in ids], np.int64)
