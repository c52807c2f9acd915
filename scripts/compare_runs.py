"""Paired differences of AUC between arms of runs on the same rows, such as one arm before and after a change.

    python scripts/compare_runs.py --split valid --ours runs/new:none --others runs/old:none runs/new:lightgbm

Intervals are 95 %, over users and training seeds (`trackrec.metrics.intervals.Draws`). ``--split test`` reads the
predictions on test rows that the stage ctr wrote: do so once, after every choice was made.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl

from trackrec.ctr.arms.verdict import ArmScores, arm_scores
from trackrec.metrics.intervals import seed_draws
from trackrec.metrics.scores import auc
from trackrec.storage.parts import read_table


def scores_of(place: str, split: str) -> ArmScores:
    """The predictions of ``RUN_DIR:ARM``."""
    run_dir, _, arm = place.rpartition(":")
    samples = read_table(Path(run_dir) / "data", "samples", columns=("sample_id", "user_id", "label"))
    predictions = read_table(Path(run_dir) / "ctr", "predictions")
    known = predictions["arm"].unique().sort().to_list()
    if arm not in known:
        raise SystemExit(f"{place}: the arm must be one of {', '.join(known)}.")
    return arm_scores(predictions.filter(pl.col("arm") == arm), samples, split, arm)


def main() -> None:
    """Print a line for each pair."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", nargs="+", required=True, metavar="RUN_DIR:ARM")
    parser.add_argument("--others", nargs="+", required=True, metavar="RUN_DIR:ARM")
    parser.add_argument("--split", default="valid", choices=["valid", "test"])
    parser.add_argument("--resamples", type=int, default=1000)
    args = parser.parse_args()
    for place in args.ours:
        ours = scores_of(place, args.split)
        for other in args.others:
            theirs = scores_of(other, args.split)
            if list(ours.sample_ids) != list(theirs.sample_ids):
                raise SystemExit(f"{place} and {other} were not evaluated on the same rows.")
            first, second = (seed_draws(auc, s.users, s.labels, s.p, args.resamples) for s in (ours, theirs))
            gap = (first - second).interval()
            print(
                f"{place} {first.value:.4f} - {other} {second.value:.4f} = "
                f"{gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]  {args.split}, {gap.n:,} rows"
            )


if __name__ == "__main__":
    main()
