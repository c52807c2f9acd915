"""A listwise loss on preference sets: the policy's order of all draws is to be that of their rewards.

ListNet's top-one cross-entropy (Cao et al. 2007, ICML, "Learning to Rank: From Pairwise Approach to Listwise Approach")
with the implicit rewards of DPO as scores, as in LiPO (Liu et al. 2024, arXiv 2402.01878, its softmax loss).
S-DPO reads only which draw is the best; this reads how much better it is.

Shapes: B sets, K rejected texts of the largest set.
"""

from __future__ import annotations

import torch
from torch import Tensor


def listwise(scores: Tensor, rewards: Tensor, mask: Tensor, temperature: float) -> Tensor:
    r"""Loss of each preference set.

    .. math:: t = \mathrm{softmax}(r / τ), \quad L = -\sum_i t_i \log \mathrm{softmax}(s)_i

    Where policy and reference agree all scores are 0, and the loss is ln(1 + K) whatever the rewards.

    Args:
        scores: (B, 1 + K) s, implicit rewards β (log π − log π_ref), the chosen text first; values where ``mask`` is
            False are never read.
        rewards: (B, 1 + K) r, the validator's rewards of the same texts.
        mask: (B, 1 + K) True where a text exists.
        temperature: τ; towards 0 the whole target lies on the best text.

    Returns:
        (B,) losses.
    """
    target = (rewards / temperature).masked_fill(~mask, -torch.inf).softmax(-1)
    logps = scores.masked_fill(~mask, -torch.inf).log_softmax(-1)
    return -(target * logps.masked_fill(~mask, 0.0)).sum(-1)
