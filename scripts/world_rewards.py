"""Do the rewards of a simulated run pay for true claims? ``python scripts/world_rewards.py runs/simulated ...``.

One line per round and reward (the mean probability of the true label, and the mean log-probability, which orders the
draws of a history as ``log_gain`` does): its correlations within histories with the share of true claims among those
that the world decides, with their number, and with the reward that the same answers of V would get from fresh labels.
The last one says how much of the order is a matter of the drawn labels. Pearson's correlations are of numbers centred
within a history, pooled over all of them; Spearman's are the same of ranks. Intervals are 95 %, over users.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import rankdata
from world_truth import Run, expected_reward, load

from trackrec.align.preferences import log_probability
from trackrec.metrics.intervals import user_bootstrap
from trackrec.metrics.scores import balanced_mean
from trackrec.recipe.names import in_round

RESAMPLES = 500
REWARDS = {"probability": "probability", "log": "log-probability"}
TRUTHS = ("true_share", "true_claims", "expected")
Float = NDArray[np.float64]


def rewarded_draws(run: Run, number: int) -> pl.DataFrame | None:
    """Every draw of a round that differs from the history's others; None if the round has no scores.

    Columns: user_id, history_id, draw, probability, log (the two rewards), true_share (null where the world decides no
    claim), true_claims, expected.
    """
    draws = run.files.table(in_round(number, "sample"), "reccots")
    scores = run.files.table(in_round(number, "score"), "scores")
    if draws is None or scores is None:
        return None
    draws = draws.sort("history_id", "draw").unique(["history_id", "token_ids"], keep="first", maintain_order=True)
    rows = scores.join(run.samples.select("sample_id", "user_id", "item_id", "label"), on="sample_id")
    truth = run.truth.probability(rows["user_id"].to_list(), rows["item_id"].to_list())
    rows = rows.with_columns(pl.Series("truth", truth)).sort("history_id", "draw", "sample_id")
    grouped = rows.group_by("history_id", "draw").agg(
        pl.col("user_id").first(), *(pl.col(name) for name in ("p_true", "p_yes", "label", "truth"))
    )
    found = []
    for one in draws.join(grouped, on=["history_id", "draw"], maintain_order="left").iter_rows(named=True):
        labels = np.array(one["label"])
        check = run.truth.check(one["user_id"], one["text"])
        decided = check.true + check.false
        found.append(
            {
                **{name: one[name] for name in ("user_id", "history_id", "draw")},
                "probability": balanced_mean(np.array(one["p_true"]), labels),
                "log": balanced_mean(log_probability(one["p_true"]), labels),
                "true_share": check.true / decided if decided else None,
                "true_claims": float(check.true),
                "expected": expected_reward(np.array(one["p_yes"], np.float64), np.array(one["truth"])),
            }
        )
    return pl.DataFrame(found, infer_schema_length=None)


def correlation(draws: pl.DataFrame, reward: str, truth: str, ranks: bool) -> str:
    """``.123 [.080, .170]``, or a dash where nothing differs within the histories."""
    known = draws.drop_nulls(truth)
    sums = [
        (user, *_products(one, reward, truth, ranks))
        for (_, user), one in known.group_by("run", "user_id", maintain_order=True)
    ]
    if not sums:
        return "–"
    users, *columns = (np.array(column) for column in zip(*sums, strict=True))
    clusters = np.arange(len(users))  # a user of two runs of one world counts once in each

    def pooled(ab: Float, aa: Float, bb: Float) -> float:
        scale = float(np.sqrt(aa.sum() * bb.sum()))
        return float(ab.sum()) / scale if scale > 0 else float("nan")

    found = user_bootstrap(pooled, clusters, *columns, n_resamples=RESAMPLES)
    return "–" if np.isnan(found.value) else f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _products(one: pl.DataFrame, reward: str, truth: str, ranks: bool) -> tuple[float, float, float]:
    """Of a user's draws, the sums of the products a b, a a and b b of numbers centred within each history."""
    total = np.zeros(3)
    for _, history in one.group_by("history_id", maintain_order=True):
        a, b = (history[name].to_numpy().astype(np.float64) for name in (reward, truth))
        a, b = (rankdata(values) if ranks else values for values in (a, b))
        a, b = a - a.mean(), b - b.mean()
        total += [(a * b).sum(), (a * a).sum(), (b * b).sum()]
    return float(total[0]), float(total[1]), float(total[2])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dirs", type=Path, nargs="+", help="runs of one config that differ in their seed")
    runs = [load(directory) for directory in parser.parse_args().run_dirs]
    titles = ("share of true claims", "number of true claims", "reward from fresh labels")
    kinds = ("Pearson", "Spearman")
    columns = " | ".join(f"{title}, {kind}" for title in titles for kind in kinds)
    print(f"\n{len(runs)} run(s)\n\n| round | reward | draws | {columns} |\n|{'---|' * (3 + 2 * len(titles))}")
    for number in range(1, min(run.files.rounds for run in runs) + 1):
        found = [rewarded_draws(run, number) for run in runs]
        frames = [rows.with_columns(run=pl.lit(place)) for place, rows in enumerate(found) if rows is not None]
        if len(frames) < len(runs):
            break
        draws = pl.concat(frames)
        for reward, name in REWARDS.items():
            cells = [correlation(draws, reward, truth, kind == "Spearman") for truth in TRUTHS for kind in kinds]
            print(f"| {number} | {name} | {draws.height} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
