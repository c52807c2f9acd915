"""How often the intervals of the CTR arms hold the truth, on simulated arms between which there is no difference.

    python scripts/calibrate_intervals.py --trials 2000

A trial is an experiment: users with a few rows each; the arms ``none``, ``reccot`` and a placebo; S training seeds. All
arms rank the rows by their labels and noise, and the noise is of the same distribution in each, so every true
difference is 0. Noise is of two kinds: an arm's own, equal for its seeds, which is the chance of which users were
drawn; and that of a seed, whose share of the variance of the mean over seeds is ``share``:

* ``shift``: a seed ranks all rows better or worse than the arm does, as a training that stopped early.
* ``rows``: a seed has noise of its own in each row, which is also chance of the users.

Per cell: how many 95 % intervals of AUC(reccot) - AUC(none) hold 0, by `trackrec.metrics.intervals.Draws` and, from the
same variances, by Student's quantile with Satterthwaite's degrees of freedom; and the share of the verdicts "helps" and
"hurts".
"""

from __future__ import annotations

import argparse
import math
import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from trackrec.ctr.arms.verdict import HELPS, HURTS, verdict
from trackrec.metrics.intervals import Draws, seed_draws
from trackrec.metrics.scores import auc

_ARMS = ("none", "reccot", "shuffled")
_SIGNAL, _OWN = 0.5, 1.0  # of labels in all arms' logits, and the spread of an arm's own noise


class Cell(NamedTuple):
    """Shares of trials."""

    covered: float
    satterthwaite: float
    helps: float
    hurts: float


def main() -> None:
    """Print a table for each kind of noise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=100)
    parser.add_argument("--users", type=int, default=40)
    parser.add_argument("--rows", type=int, default=4, help="of each user")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3, 5, 10])
    parser.add_argument("--shares", type=float, nargs="+", default=[0, 0.3, 0.7, 1])
    parser.add_argument("--noise", nargs="+", default=["shift", "rows"], choices=["shift", "rows"])
    args = parser.parse_args()
    started = time.perf_counter()
    for noise in args.noise:
        print(f"\n{noise}, {args.trials:,} trials a cell, {args.users} users of {args.rows} rows")
        print("| seeds | share of seed noise | intervals that hold 0 | with Satterthwaite's | helps | hurts |")
        print("|---|---|---|---|---|---|")
        for n_seeds in args.seeds:
            for share in args.shares:
                shares = " | ".join(f"{100 * value:.1f} %" for value in calibrate(args, noise, n_seeds, share))
                print(f"| {n_seeds} | {share:g} | {shares} |", flush=True)
    print(f"\n{time.perf_counter() - started:,.0f} s")


def calibrate(args: argparse.Namespace, noise: str, n_seeds: int, share: float) -> Cell:
    """One cell of the table."""
    rng = np.random.default_rng([n_seeds, int(1000 * share), noise == "rows"])
    scale = _shift_scale(args, n_seeds, share) if noise == "shift" else 0.0
    users = np.repeat(np.arange(args.users), args.rows)
    found = []
    for trial in range(args.trials):
        labels = rng.integers(0, 2, len(users))
        draws = [
            seed_draws(auc, users, labels, arm(rng, labels, noise, n_seeds, share, scale), args.resamples, trial)
            for _ in _ARMS
        ]
        difference = draws[1] - draws[0]
        interval = difference.interval()
        said = verdict(interval, (draws[1] - draws[2]).interval())
        half = satterthwaite(difference)
        found.append((interval.low <= 0 <= interval.high, abs(difference.value) <= half, said == HELPS, said == HURTS))
    return Cell(*np.mean(found, axis=0).tolist())


def arm(
    rng: np.random.Generator, labels: NDArray[np.int64], noise: str, n_seeds: int, share: float, scale: float
) -> NDArray[np.float64]:
    """(S, N) predictions of an arm.

    Args:
        rng: of the noise.
        labels: (N,).
        noise: ``shift`` or ``rows``.
        n_seeds: S.
        share: of the seeds in the variance of their mean.
        scale: spread of the shifts.
    """
    signs = 2.0 * labels - 1
    own, of_seeds = rng.normal(size=len(labels)), rng.normal(size=(n_seeds, len(labels)))
    if noise == "rows":
        part = share * n_seeds / (1 - share + share * n_seeds)
        logits = _SIGNAL * signs + _OWN * (math.sqrt(1 - part) * own + math.sqrt(part) * of_seeds)
    else:
        # Where shifts are alone, all arms have the noise of the trial's labels.
        own = np.random.default_rng(labels).normal(size=len(labels)) if share == 1 else own
        logits = (_SIGNAL + scale * rng.normal(size=(n_seeds, 1))) * signs + _OWN * own
    return 1 / (1 + np.exp(-logits))


def _shift_scale(args: argparse.Namespace, n_seeds: int, share: float) -> float:
    """The spread of shifts that gives the seeds their share of the variance of a mean over S of them."""
    if share == 1:
        return 0.05
    rng = np.random.default_rng(0)

    def level(signal: float) -> float:
        labels = rng.integers(0, 2, args.users * args.rows)
        return auc(1 / (1 + np.exp(-signal * (2.0 * labels - 1) - _OWN * rng.normal(size=len(labels)))), labels)

    alone = np.var([level(_SIGNAL) for _ in range(1000)])
    rise = np.mean([level(_SIGNAL + 0.2) for _ in range(500)]) - np.mean([level(_SIGNAL) for _ in range(500)])
    return float(np.sqrt(share / (1 - share) * alone * n_seeds) / (rise / 0.2))


def satterthwaite(difference: Draws) -> float:
    """Half the width of the interval with Satterthwaite's degrees of freedom."""
    users, seeds, _ = difference.variances()
    if not users + seeds > 0:
        return 0.0
    n_seeds = len(difference.by_seed)
    freedom = (users + seeds) ** 2 / (users**2 / (difference.n_users - 1) + seeds**2 / (n_seeds - 1))
    return float(t.ppf(0.975, freedom)) * difference.standard_error()


if __name__ == "__main__":
    main()
