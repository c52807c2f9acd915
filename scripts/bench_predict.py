"""Time and memory of predicting requests: in parts, as `trackrec predict` does, against all at once.

Trains one net for an epoch on MovieLens ratings with random text vectors, then predicts requests of random users and
films, each way in a process of its own. Prints rows per second and how far memory rises above that with the nets
loaded; ``--json`` writes them.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from bench_export import bench_plan, write_tables

from trackrec.ctr.arms.assemble import CTRInputs
from trackrec.ctr.saved import SavedNets
from trackrec.ctr.stage import run_ctr
from trackrec.runtime.peak_memory import peak_memory, reset_peak_memory
from trackrec.serving.predict import answer
from trackrec.serving.requests import after_all, newest_histories


def main() -> None:
    """Train, then predict."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/ml-100k"))
    parser.add_argument("--net", default="DIN", help="a name exported by trackrec.ctr")
    parser.add_argument("--requests", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--ways", nargs="+", default=["in parts", "at once"], choices=["in parts", "at once"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*(LeafSpec|does not have many workers).*")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    report: dict[str, Any] = {"net": args.net, "torch": torch.__version__, "ways": []}
    with tempfile.TemporaryDirectory() as folder:
        inputs = write_tables(args.data, Path(folder) / "data")
        run_ctr(inputs, bench_plan(args.net), Path(folder) / "ctr", 0, lambda _: None)
        context = multiprocessing.get_context("spawn")
        for n_requests in args.requests:
            for way in args.ways:
                at_once = n_requests if way == "at once" else None
                with ProcessPoolExecutor(1, context) as pool:
                    job = pool.submit(measure, inputs, args.net, Path(folder) / "ctr", n_requests, at_once)
                    costs = job.result()
                print(f"{n_requests:>11,} requests {way:8} {costs['rows/s']:9,.0f} rows/s, {costs['MB']:6,.0f} MB more")
                report["ways"].append({"requests": n_requests, "way": way, **costs})
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def measure(inputs: CTRInputs, net: str, ctr_dir: Path, n_requests: int, rows_at_once: int | None) -> dict[str, float]:
    """Rows per second, and the process's peak memory in MB above what it held with the nets loaded."""
    rng = np.random.default_rng(0)
    users = inputs.samples["user_id"].unique().sort()
    items = inputs.items["item_id"]
    requests = pl.DataFrame({"user_id": users[rng.integers(0, len(users), n_requests)]})
    requests = requests.with_columns(item_id=items[rng.integers(0, len(items), n_requests)])
    histories = newest_histories(inputs.samples, set(inputs.vectors["reccot"]))
    nets = SavedNets(inputs, bench_plan(net), ctr_dir, "reccot", 0, now=after_all(inputs.interactions))
    answer(nets, requests[:1000], histories, inputs)
    reset_peak_memory()
    before = peak_memory()
    start = time.perf_counter()
    answer(nets, requests, histories, inputs, rows_at_once=rows_at_once)
    return {"rows/s": n_requests / (time.perf_counter() - start), "MB": (peak_memory() - before) / 1e6}


if __name__ == "__main__":
    main()
