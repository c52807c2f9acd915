"""What answers where no net can: like-rates of items and users.

Letters: N items.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trackrec.ctr.features.past import Prior, like_rate, logit

ITEM_USER, ITEM_MEAN, BASE_RATE = "item_user", "item_mean", "base_rate"
USER_SMOOTHING = 5.0  # pseudo-ratings at the base rate, as in `trackrec.ctr.arms.baselines`

Float = NDArray[np.float64]


def base_rate(everything: Prior) -> float:
    """The smoothed share of likes among all ratings, from their sums (1,)."""
    return float((everything.likes[0] + 1.0) / (everything.n[0] + 2.0))


def item_user(item_rates: Float, n: Float, likes: Float, base: float) -> Float:
    """(N,) like-rates of items with the evidence of a user: logit = logit(item) + logit(user) - logit(base).

    Args:
        item_rates: (N,) smoothed.
        n: (N,) or (1,) the user's newest ratings.
        likes: of them.
        base: `base_rate`.
    """
    of_all = np.array([base])
    user = like_rate(Prior(n, likes, np.zeros(1)), of_all, USER_SMOOTHING)
    evidence = logit(item_rates) + logit(user) - logit(of_all)
    rates: Float = 1.0 / (1.0 + np.exp(-evidence))
    return rates
