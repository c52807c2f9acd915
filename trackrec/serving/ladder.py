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


def item_user(item_rates: Float, n: int, likes: int, base_rate: float) -> Float:
    """(N,) like-rates of items with the evidence of a user: logit = logit(item) + logit(user) - logit(base).

    Args:
        item_rates: (N,) smoothed.
        n: the user's newest ratings.
        likes: of them.
        base_rate: of everything.
    """
    base = np.array([base_rate])
    user = like_rate(Prior(np.array([float(n)]), np.array([float(likes)]), np.zeros(1)), base, USER_SMOOTHING)
    evidence = logit(item_rates) + logit(user) - logit(base)
    rates: Float = 1.0 / (1.0 + np.exp(-evidence))
    return rates
