"""How position bias distorts an offline AUC, and what propensities correct: ``python scripts/position_bias.py``.

Two rankers are measured on clicks from lists that a third ranker filled, which knows nothing about tastes. The copy
imitates the third one; the reader knows tastes with heavy noise. The AUC on the clicks favours the copy, because users
look at films at the top. Clicks weighted by propensity favour the reader, and so do users when the lists follow either
ranker.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np

from trackrec.interactions.simulated.policy import (
    LoggingPolicy,
    click_auc,
    draw_pools,
    log_clicks,
    online_ctr,
    pair_auc,
    true_likes,
    weighted_click_auc,
    weighted_ctr,
)
from trackrec.interactions.simulated.source import Simulated

COLUMNS = ("AUC on clicks", "AUC, weighted", "AUC on likes", "CTR, weighted", "CTR online")


class Measured(NamedTuple):
    """One ranker on one log, in the order of ``COLUMNS``: ``likes`` and ``online`` are true, the others estimates."""

    clicks: float
    weighted: float
    likes: float
    weighted_ctr: float
    online: float


def measure(world_seed: int, log_seed: int, lists: int, policy: LoggingPolicy) -> dict[str, Measured]:
    """Log the clicks once, and measure both rankers on that log."""
    world = Simulated(seed=world_seed).truth().world
    users, items = draw_pools(world, policy, lists, log_seed)
    rng = np.random.default_rng([log_seed, 5])
    p = true_likes(world, users, items)
    shown_by = rng.normal(size=len(world.titles))[items]
    rankers = {
        "copy of the logging ranker": shown_by + rng.normal(0, 0.1, items.shape),
        "noisy reader of tastes": np.log(p / (1 - p)) + rng.normal(0, 3, items.shape),
    }
    log = log_clicks(world, policy, users, items, shown_by, log_seed)
    return {
        name: Measured(
            click_auc(log, policy, scores),
            weighted_click_auc(log, scores),
            pair_auc(scores.ravel(), p.ravel(), 1 - p.ravel()),
            weighted_ctr(log, policy, scores),
            online_ctr(world, policy, users, items, scores),
        )
        for name, scores in rankers.items()
    }


def main() -> None:
    """Print means and standard deviations over logs, and how often each column prefers the reader."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=int, default=1, help="seed of the world")
    parser.add_argument("--logs", type=int, default=20, help="how many logs are drawn")
    parser.add_argument("--lists", type=int, default=3000, help="lists of a log")
    args = parser.parse_args()
    policy = LoggingPolicy()
    runs = [measure(args.world, seed, args.lists, policy) for seed in range(args.logs)]
    print(f"{args.logs} logs of {args.lists} lists, {policy}")
    print(f"| ranker | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}")
    values = {name: np.array([run[name] for run in runs]) for name in runs[0]}
    for name, by_log in values.items():
        spread = by_log.std(axis=0, ddof=1) if len(by_log) > 1 else np.zeros(by_log.shape[1])
        cells = [f"{mean:.4f} ± {sd:.4f}" for mean, sd in zip(by_log.mean(0), spread, strict=True)]
        print(f"| {name} | {' | '.join(cells)} |")
    copy, reader = values.values()
    wins = (reader > copy).sum(axis=0)
    print(f"| logs that prefer the reader | {' | '.join(f'{n} of {args.logs}' for n in wins)} |")


if __name__ == "__main__":
    main()
