"""How many liked validation items the candidates hold, and how the net ranks them, beside popularity.

Trains DIN without text on MovieLens ratings and writes a bundle. Each user with a liked validation row is asked about
the moment before the first one: the recent list and the items already rated are those of then; popularity and
neighbours count train rows and histories, as everywhere. Prints recall@k (of at most k liked items), NDCG@k and
coverage (the share of the catalogue that some user is shown) for each way, with the median time of an answer;
``--json`` writes them.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from bench_export import bench_plan, write_tables

from trackrec.ctr.arms.assemble import CTRInputs
from trackrec.ctr.stage import run_ctr
from trackrec.serving.bundle import Bundle, open_bundle
from trackrec.serving.export import export_bundle
from trackrec.serving.ranker import Ranker
from trackrec.serving.retrieve import NEIGHBOURS, POPULAR, Retriever, recommend
from trackrec.serving.users import UserState


class Case(NamedTuple):
    """A user before their first liked validation row, and what they went on to like."""

    state: UserState
    liked: frozenset[str]


def main() -> None:
    """Train, export, ask, measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/ml-100k"))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--candidates", type=int, default=300)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*(LeafSpec|does not have many workers).*")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        inputs = write_tables(args.data, Path(folder) / "data")
        trainer = partial(dict, accelerator="cpu", max_epochs=args.epochs)
        plan = bench_plan("DIN")._replace(arms=["none"], trainer=trainer, patience=3)
        run_ctr(inputs, plan, Path(folder) / "ctr", 0, lambda _: None)
        export_bundle(inputs, plan, Path(folder) / "ctr", "none", 0, 0, Path(folder) / "bundle")
        bundle = open_bundle(Path(folder) / "bundle")
        cases = cases_of(inputs, bundle)
        report = {name: measured(way, cases, len(bundle.item_ids)) for name, way in ways(bundle, args).items()}
    print(f"{len(cases)} users, {sum(len(case.liked) for case in cases)} liked items, k = {args.k}")
    for name, numbers in report.items():
        print(f"{name:32} " + "  ".join(f"{key} {value:7.4f}" for key, value in numbers.items()))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def cases_of(inputs: CTRInputs, bundle: Bundle) -> list[Case]:
    """Every user with a liked validation row."""
    valid = inputs.samples.filter(pl.col("split") == "valid", pl.col("label") == 1).sort("timestamp", "sample_id")
    states = {state.user_id: state for state in bundle.users()}
    rated = dict(
        inputs.interactions.group_by("user_id").agg(pl.struct("item_id", "timestamp").alias("rated")).iter_rows()
    )
    cases = []
    for user, rows in valid.group_by("user_id", maintain_order=True):
        first = rows.row(0, named=True)
        seen = tuple(one["item_id"] for one in rated[user[0]] if one["timestamp"] < first["timestamp"])
        now = {"items": tuple(first["recent_items"]), "ratings": tuple(first["recent_ratings"]), "seen": seen}
        liked = frozenset(rows["item_id"]) - set(seen)
        if liked:
            cases.append(Case(replace(states[str(user[0])], **now), liked))
    return cases


def ways(bundle: Bundle, args: argparse.Namespace) -> dict[str, Callable[[UserState], Sequence[str]]]:
    """What is shown to a user, by the name of how it was chosen."""
    retriever, ranker = Retriever(bundle), Ranker(bundle)

    def first_of(name: str, state: UserState) -> list[str]:
        return retriever.lists(state, args.k)[name]

    def ranked(state: UserState, candidates: int) -> list[str]:
        return [one.item for one in recommend(ranker, retriever, state, args.k, candidates)]

    return {
        f"the {args.k} most popular": partial(first_of, POPULAR),
        f"the {args.k} nearest neighbours": partial(first_of, NEIGHBOURS),
        f"{args.candidates} candidates, ranked": partial(ranked, candidates=args.candidates),
        "every item, ranked": partial(ranked, candidates=len(bundle.item_ids)),
        f"all {args.candidates} candidates": lambda state: retriever.candidates(state, args.candidates).items,
    }


def measured(way: Callable[[UserState], Sequence[str]], cases: Sequence[Case], n_items: int) -> dict[str, float]:
    """Recall and NDCG of what is shown, means over users; coverage; median milliseconds."""
    recalls, gains, shown, seconds = [], [], set[str](), []
    for case in cases:
        started = time.perf_counter()
        items = list(way(case.state))
        seconds.append(time.perf_counter() - started)
        shown |= set(items)
        hits = np.array([item in case.liked for item in items], np.float64)
        weights = 1 / np.log2(np.arange(len(items)) + 2)
        recalls.append(hits.sum() / min(len(case.liked), max(len(items), 1)))
        gains.append((hits * weights).sum() / weights[: len(case.liked)].sum())
    numbers: dict[str, Any] = {"recall": np.mean(recalls), "NDCG": np.mean(gains), "coverage": len(shown) / n_items}
    return {name: float(value) for name, value in {**numbers, "ms": 1000 * np.median(seconds)}.items()}


if __name__ == "__main__":
    main()
