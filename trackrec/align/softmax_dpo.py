"""The S-DPO loss (Chen et al. 2024, arXiv 2406.09215, eq. 6), on summed log-probabilities, unreduced.

Shapes: B sets, K rejected texts of the largest set.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def softmax_dpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    mask: Tensor,
    beta: float,
) -> Tensor:
    r"""Loss of each preference set.

    .. math:: d_j = β[(\log π(r_j) - \log π_{ref}(r_j)) - (\log π(c) - \log π_{ref}(c))],
        \quad L = \mathrm{softplus}(\mathrm{logsumexp}_j\, d_j)

    With one rejected text this is DPO; where policy and reference agree it is ln(1 + K). It doesn't overflow, and one
    set's loss doesn't depend on the other sets of the batch.

    Args:
        chosen: (B,) log-probabilities of the chosen texts under the policy.
        rejected: (B, K) the same for the rejected ones; values where ``mask`` is False are never read.
        ref_chosen: (B,) under the reference.
        ref_rejected: (B, K) under the reference.
        mask: (B, K) True where a rejected text exists; each set needs at least one.
        beta: how strongly the policy is held to the reference.

    Returns:
        (B,) losses.

    Raises:
        ValueError: a set has no rejected text, or shapes disagree.
    """
    if rejected.shape != mask.shape or rejected.shape != ref_rejected.shape or chosen.shape != ref_chosen.shape:
        raise ValueError(
            f"shapes disagree: chosen {tuple(chosen.shape)}, rejected {tuple(rejected.shape)}, "
            f"ref_chosen {tuple(ref_chosen.shape)}, ref_rejected {tuple(ref_rejected.shape)}, mask {tuple(mask.shape)}"
        )
    if not bool(mask.any(-1).all()):
        raise ValueError("every preference set needs at least one rejected text")
    d = reward_margins(chosen, rejected, ref_chosen, ref_rejected, mask, beta)
    return F.softplus(torch.logsumexp(d, dim=-1))


def reward_margins(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, mask: Tensor, beta: float
) -> Tensor:
    """d_j of `softmax_dpo`: (B, K), -inf where masked. Negative means that the policy prefers the chosen text."""
    # Masked before the arithmetic: a padded slot may hold anything, and inf - inf would poison the gradient.
    rejected = rejected.masked_fill(~mask, 0.0)
    ref_rejected = ref_rejected.masked_fill(~mask, 0.0)
    d = beta * ((rejected - ref_rejected) - (chosen - ref_chosen).unsqueeze(-1))
    return d.masked_fill(~mask, -torch.inf)
