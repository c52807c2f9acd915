"""Does a model depend on the unit of the ratings? MovieLens in stars, in stars x 20, as exp(stars) and as plays.

    python scripts/rating_units.py --data data/ml-100k --seeds 0 1 2

The likes are the same in all of them. The first three are strictly increasing maps of the stars. Plays have a heavy
tail and mix the stars: 1 star is 1 to 5 plays, 2 are 3 to 20, 3 are 10 to 50, 4 are 51 + exp(N(5, 1)) and 5 are
51 + exp(N(6.2, 1.2)); more than 50 plays are a like. Prints the AUC on validation rows of the split by time, without
texts, and its difference to stars. The test rows are removed before any feature is computed.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from ctr_table import fit
from numpy.typing import NDArray

from trackrec.ctr.arms.classic import classic_predictions
from trackrec.ctr.features.features import FeatureBuilder
from trackrec.interactions import MovieLens, SampleRules, build_samples
from trackrec.metrics.scores import auc
from trackrec.storage.schemas import to_arrow

Float = NDArray[np.float64]


class Unit(NamedTuple):
    """Stars -> ratings, and the threshold above which a rating is a like."""

    change: Callable[[Float], Float]
    threshold: float


def plays(stars: Float) -> Float:
    """A heavy-tailed number of plays for each rating; the same likes above 50."""
    rng = np.random.default_rng(0)
    size = len(stars)
    by_star = [
        rng.integers(1, 6, size),
        rng.integers(3, 21, size),
        rng.integers(10, 51, size),
        51 + np.exp(rng.normal(5, 1, size)),
        51 + np.exp(rng.normal(6.2, 1.2, size)),
    ]
    return np.choose(stars.astype(int) - 1, [np.asarray(values, np.float64) for values in by_star])


UNITS = {
    "stars": Unit(lambda stars: stars, 3.0),
    "stars x 20": Unit(lambda stars: 20 * stars, 60.0),
    "exp(stars)": Unit(np.exp, float(np.exp(3.0))),
    "plays": Unit(plays, 50.0),
}


def aucs(unit: Unit, args: argparse.Namespace) -> dict[str, list[float]]:
    """AUC on validation rows by model, one per seed."""
    ratings = MovieLens(root=str(args.data)).read()
    stars = ratings.interactions["rating"].to_numpy().astype(np.float64)
    changed = pl.Series("rating", unit.change(stars), dtype=pl.Float32)
    ratings = ratings._replace(interactions=ratings.interactions.with_columns(changed))
    threshold = float(np.float32(unit.threshold))
    built = build_samples(ratings, SampleRules(), threshold, seed=42)
    samples = pl.from_arrow(to_arrow("samples", built.samples))
    assert isinstance(samples, pl.DataFrame)
    samples = samples.filter(pl.col("split") != "test")
    data = FeatureBuilder(samples, built.histories, ratings.items, ratings.interactions, threshold)(samples)
    labels = data.splits["valid"]["label"].numpy()
    frames = [classic_predictions(data, ["logistic"], ["none"], [0])]
    frames += [fit(name, data, seed, args) for name in args.nets for seed in args.seeds]
    found: dict[str, list[float]] = {}
    for (name, _), rows in pl.concat([f.select("sample_id", "p", "split", "arm", "seed") for f in frames]).group_by(
        "arm", "seed", maintain_order=True
    ):
        found.setdefault(str(name), []).append(auc(rows.filter(pl.col("split") == "valid")["p"].to_numpy(), labels))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/ml-100k"))
    parser.add_argument("--nets", nargs="*", default=["DIN", "DeepFM"], help="names exported by trackrec.ctr")
    parser.add_argument("--units", nargs="+", default=list(UNITS), choices=list(UNITS), help="stars must be the first")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.net_args, args.model_args, args.data_args = {}, {}, {}
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*(many workers|LeafSpec).*")
    found: dict[str, Any] = {name: aucs(UNITS[name], args) for name in args.units}
    print(f"\n{'ratings':12s}" + "".join(f"{model:>22s}" for model in found["stars"]))
    for name, models in found.items():
        means = {
            model: (np.mean(values), np.mean(values) - np.mean(found["stars"][model]))
            for model, values in models.items()
        }
        print(f"{name:12s}" + "".join(f"{mean:13.4f} {gap:+8.4f}" for mean, gap in means.values()))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
