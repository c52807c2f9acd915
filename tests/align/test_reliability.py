"""The reliability of rewards: values worked out by hand, and worlds whose reliability is known."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from tiny import frame, reccot_row

from trackrec.align.preferences import Reward
from trackrec.align.reliability import COMMON, RELIABILITY, measure_rewards

LABELS = (1, 1, 0, 0)


def measure(
    p_true: np.ndarray,
    labels: tuple[int, ...] = LABELS,
    seed: int = 0,
    same: bool = False,
    reward: Reward = "probability",
):
    """Of P(true label) by history, draw and target (H, D, T); ``same`` gives all draws of a history one text."""
    n, draws, targets = p_true.shape
    texts = [reccot_row(f"h{h}", d, token_ids=[0 if same else d]) for h in range(n) for d in range(draws)]
    keys = [(h, d, t) for h in range(n) for d in range(draws) for t in range(targets)]
    flat = p_true.ravel()
    scores = pl.DataFrame(
        {
            "history_id": [f"h{h}" for h, _, _ in keys],
            "draw": pl.Series([d for _, d, _ in keys], dtype=pl.Int32),
            "sample_id": [f"s{h}-{t}" for h, _, t in keys],
            "p_true": pl.Series(flat, dtype=pl.Float32),
            "p_yes": pl.Series([p if labels[t] else 1 - p for p, (_, _, t) in zip(flat, keys, strict=True)]),
        }
    )
    samples = pl.DataFrame(
        [(f"s{h}-{t}", f"u{h}", labels[t]) for h in range(n) for t in range(targets)],
        schema=["sample_id", "user_id", "label"],
        orient="row",
    )
    return measure_rewards(frame("reccots", texts), scores, samples, seed, reward)


def test_the_reliability_by_hand():
    """Likes deviate by u + e and u - e, dislikes not: the halves are (u + e) / 2 and (u - e) / 2, or exchanged.

    With sums over draws of u u = .02, e e = .0024, u e = 0, the correlation is (.02 - .0024) / (.02 + .0024).
    """
    u, e = np.array([0.1, 0.0, -0.1]), np.array([0.02, -0.04, 0.02])
    zero = np.zeros(3)
    p_true = 0.5 + np.stack([u + e, u - e, zero, zero], axis=1)[None]
    found = measure(p_true)[RELIABILITY]
    assert found.value == pytest.approx(0.0176 / 0.0224, abs=1e-5)
    assert found.n == 1


def test_the_reliability_of_log_gains_by_hand():
    """Five times the deviations of above, in nats, about -log 4: the same correlation, and another of probabilities."""
    u, e = 5 * np.array([0.1, 0.0, -0.1]), 5 * np.array([0.02, -0.04, 0.02])
    zero = np.zeros(3)
    p_true = 0.25 * np.exp(np.stack([u + e, u - e, zero, zero], axis=1))[None]
    assert measure(p_true, reward="log_gain")[RELIABILITY].value == pytest.approx(0.0176 / 0.0224, abs=1e-5)
    assert abs(measure(p_true)[RELIABILITY].value - 0.0176 / 0.0224) > 1e-3


def test_the_common_share_by_hand():
    """Log-odds (1, 0, -1) and (1.5, -1, -.5): covariance 1, variances 1 and 1.75."""
    log_odds = np.array([[1.0, 1.5], [0.0, -1.0], [-1.0, -0.5]])
    p = 1 / (1 + np.exp(-log_odds))
    found = measure(p[None], labels=(1, 1))
    assert found[COMMON].value == pytest.approx(1 / 1.375, abs=1e-5)
    assert found[COMMON].n == 1
    assert found[RELIABILITY].n == 0  # no dislikes


@pytest.mark.parametrize(("noise", "due"), [(0.0, 1.0), (0.02, 1 / 3), (0.1, 0.02)])
def test_the_reliability_of_known_worlds(noise: float, due: float):
    """A draw helps with all targets alike (variance .0001), beside noise: a half's noise has half its variance."""
    rng = np.random.default_rng(1)
    p_true = 0.5 + 0.01 * rng.normal(size=(600, 4, 1)) + noise * rng.normal(size=(600, 4, 4))
    found = measure(p_true)[RELIABILITY]
    assert found.value == pytest.approx(due, abs=0.06)
    assert found.n == 600
    assert found.low <= found.value <= found.high


def test_tone_alone_is_common_to_all_targets_and_not_reliable():
    """Every text moves V towards Yes or No: for rows of one class that would be a reliable reward."""
    rng = np.random.default_rng(2)
    tone, noise = 0.1 * rng.normal(size=(400, 4, 1)), 0.005 * rng.normal(size=(400, 4, 4))
    p_yes = np.clip(0.5 + tone + noise, 0.02, 0.98)
    found = measure(np.where(np.array(LABELS) == 1, p_yes, 1 - p_yes))
    assert abs(found[RELIABILITY].value) < 0.1
    assert found[COMMON].value > 0.98


@pytest.mark.parametrize("labels", [(1, 0), (1, 1, 1, 0), (1,)])
def test_a_class_with_a_single_row_cannot_be_split(labels):
    found = measure(np.random.default_rng(0).random((3, 4, len(labels))), labels)
    assert math.isnan(found[RELIABILITY].value)
    assert found[RELIABILITY].n == 0
    assert found[COMMON].n == (3 if len(labels) > 1 else 0)


def test_equal_draws_count_once():
    p_true = np.random.default_rng(0).random((3, 4, 4))
    assert measure(p_true)[RELIABILITY].n == 3
    assert measure(p_true, same=True)[RELIABILITY].n == 0
