"""CTR nets beside logistic regression and LightGBM on MovieLens ratings, without texts.

    python scripts/ctr_table.py --protocols temporal user --nets DIN DeepFM --json table.json

Choices are made on validation rows: without ``--test`` the test rows are removed before any feature is computed. With
it the test split is read once, at the end. Every model is compared with ``lightgbm`` and ``lightgbm_lists`` (or with
logistic regression if LightGBM is not installed); intervals are over users and seeds. ``lightgbm_lists`` has
statistics of the item and of the two lists (the last ten ratings, the history) only, without years and neighbours.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import tempfile
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import trackrec.ctr
from trackrec.ctr.arms.baselines import baseline_predictions
from trackrec.ctr.arms.classic import classic_predictions
from trackrec.ctr.arms.verdict import arm_scores
from trackrec.ctr.features.dense_statistics import dense_names
from trackrec.ctr.features.features import CTRData, FeatureBuilder
from trackrec.ctr.settings import CTRSettings
from trackrec.ctr.training.train import fit_arm
from trackrec.interactions import MovieLens, SampleRules, build_samples
from trackrec.metrics.intervals import seed_draws
from trackrec.metrics.scores import auc, log_loss
from trackrec.storage.schemas import to_arrow


def main() -> None:
    """Print one table per protocol, and write all numbers to ``--json``."""
    args = _arguments()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    numbers: list[dict[str, Any]] = []
    for protocol in args.protocols:
        samples, predictions = run_protocol(protocol, args)
        for split in ("valid", "test") if args.test else ("valid",):
            rows = table(predictions, samples, split, args.resamples)
            numbers += [{"protocol": protocol, "split": split, **row} for row in rows]
            print(f"\n{protocol}, ties {args.ties}, {split}: {len(samples.filter(pl.col('split') == split)):,} rows")
            for row in rows:
                print("  " + format_row(row))
    if args.json:
        args.json.write_text(json.dumps(numbers, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/ml-100k"))
    parser.add_argument("--protocols", nargs="+", default=["temporal", "user"], choices=["temporal", "user"])
    parser.add_argument("--ties", default="strict", choices=["strict", "kept"])
    parser.add_argument("--nets", nargs="*", default=["DIN", "DeepFM"], help="names exported by trackrec.ctr")
    parser.add_argument("--net-args", type=json.loads, default={}, help='JSON, such as {"embed_dim": 8}')
    parser.add_argument("--model-args", type=json.loads, default={}, help='JSON, such as {"weight_decay": 0.001}')
    parser.add_argument("--data-args", type=json.loads, default={}, help='JSON, such as {"batch_size": 1024}')
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--test", action="store_true", help="read the test split too")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def run_protocol(protocol: str, args: argparse.Namespace) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The samples, and the predictions of every model on them."""
    ratings = MovieLens(root=str(args.data)).read()
    rules = SampleRules(protocol=protocol, strict_ties=args.ties == "strict")
    built = build_samples(ratings, rules, 3.0, seed=42)
    samples = pl.from_arrow(to_arrow("samples", built.samples))
    assert isinstance(samples, pl.DataFrame)
    if not args.test:
        samples = samples.filter(pl.col("split") != "test")
    data = FeatureBuilder(samples, built.histories, ratings.items, ratings.interactions)(samples)
    has_boosting = importlib.util.find_spec("lightgbm") is not None
    classics = ["logistic", *(["lightgbm"] if has_boosting else [])]
    means = baseline_predictions(samples, built.histories, ratings.interactions).filter(pl.col("split") != "train")
    base = means.select("sample_id", "split", p="item_user", arm=pl.lit("item_user"), seed=pl.lit(0))
    frames = [base, classic_predictions(data, classics, ["none"], args.seeds).select(base.columns)]
    if has_boosting:
        kept = [index for index, name in enumerate(dense_names()) if "year" not in name and "neighbour" not in name]
        splits = {name: {**columns, "dense": columns["dense"][:, kept]} for name, columns in data.splits.items()}
        narrow = classic_predictions(replace(data, splits=splits), ["lightgbm"], ["none"], args.seeds)
        frames.append(narrow.with_columns(arm=pl.lit("lightgbm_lists")).select(base.columns))
    frames += [fit(name, data, seed, args).select(base.columns) for name in args.nets for seed in args.seeds]
    return samples, pl.concat(frames)


def fit(name: str, data: CTRData, seed: int, args: argparse.Namespace) -> pl.DataFrame:
    """Predictions of one training."""
    net = partial(getattr(trackrec.ctr, name), **args.net_args)
    with tempfile.TemporaryDirectory() as folder:
        plan = CTRSettings(
            net, None, args.model_args, args.data_args, lambda: {"accelerator": "cpu"}, ["none"], [seed], patience=3
        )
        result = fit_arm(plan, data, "none", seed, Path(folder))
    print(f"{name} seed {seed}: valid {result.valid_auc:.4f}, epoch {result.best_epoch} of {result.epochs}", flush=True)
    frames = [
        pl.DataFrame({"sample_id": data.sample_ids[split], "p": p.astype(np.float64), "split": split})
        for split, p in result.predictions.items()
    ]
    return pl.concat(frames).with_columns(arm=pl.lit(name), seed=pl.lit(seed))


def table(predictions: pl.DataFrame, samples: pl.DataFrame, split: str, n_resamples: int) -> list[dict[str, Any]]:
    """Per model: AUC with its interval and spread over seeds, log loss, and the difference to each reference model."""
    arms = predictions["arm"].unique(maintain_order=True).to_list()
    references = [arm for arm in ("lightgbm", "lightgbm_lists") if arm in arms] or ["logistic"]
    scores = {arm: arm_scores(predictions, samples, split, arm) for arm in arms}
    draws = {arm: seed_draws(auc, s.users, s.labels, s.p, n_resamples) for arm, s in scores.items()}
    return [
        {
            "model": arm,
            "auc": draws[arm].interval()[:3],
            "seed_sd": float(np.std([auc(p, scores[arm].labels) for p in scores[arm].p])),
            "log_loss": float(np.mean([log_loss(p, scores[arm].labels) for p in scores[arm].p])),
            "minus": {name: (draws[arm] - draws[name]).interval()[:3] for name in references},
        }
        for arm in arms
    ]


def format_row(row: dict[str, Any]) -> str:
    """One line of the table."""
    value, low, high = row["auc"]
    differences = (f"  minus {name} {d:+.4f} [{lo:+.4f}, {hi:+.4f}]" for name, (d, lo, hi) in row["minus"].items())
    return (
        f"{row['model']:14} AUC {value:.4f} [{low:.4f}, {high:.4f}] sd {row['seed_sd']:.4f}"
        f"  log loss {row['log_loss']:.4f}{''.join(differences)}"
    )


if __name__ == "__main__":
    main()
