"""Time of one request of 100 candidates: onnxruntime, torch, and the encoding of the net's inputs.

Trains each net for one epoch on MovieLens ratings with random text vectors, exports it as `trackrec export` does, and
scores 100 films for one user. The ways take turns, a request each; prints medians and 95th percentiles in
milliseconds, ``--json`` writes them. One thread each.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import trackrec.ctr
from trackrec.ctr.arms.assemble import CTRInputs
from trackrec.ctr.saved import load_net, saved_features, saved_net
from trackrec.ctr.settings import CTRSettings
from trackrec.ctr.stage import run_ctr
from trackrec.interactions import MovieLens, SampleRules, build_samples
from trackrec.serving.bundle import open_bundle
from trackrec.serving.encoder import RequestEncoder
from trackrec.serving.export import export_bundle
from trackrec.serving.ranker import Ranker
from trackrec.storage.parts import read_table, write_part

TEXT_DIM = 384


def main() -> None:
    """Train, export, and time every net."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/ml-100k"))
    parser.add_argument("--nets", nargs="+", default=["DIN", "DeepFM"], help="names exported by trackrec.ctr")
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=500)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    import onnxruntime

    warnings.filterwarnings("ignore", message=".*(LeafSpec|does not have many workers).*")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    report: dict[str, Any] = {"candidates": args.candidates, "repeats": args.repeats, "torch": torch.__version__}
    report["onnxruntime"] = onnxruntime.__version__
    with tempfile.TemporaryDirectory() as folder:
        inputs = write_tables(args.data, Path(folder) / "data")
        for name in args.nets:
            report[name], difference = bench(name, inputs, Path(folder), args.candidates, args.repeats)
            for way, numbers in report[name].items():
                print(f"{name:8} {way:13} " + "  ".join(f"{key} {value:8.3f}" for key, value in numbers.items()))
            print(f"{name:8} onnxruntime differs from torch by at most {difference:.1e}")
            report[name]["largest difference"] = difference
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def write_tables(root: Path, out: Path) -> CTRInputs:
    """The data stage's tables, and random vectors for every history."""
    ratings = MovieLens(root=str(root)).read()
    built = build_samples(ratings, SampleRules(), 3.0, seed=42)
    tables = {"samples": built.samples, "histories": built.histories}
    tables |= {"items": ratings.items, "interactions": ratings.interactions}
    for name, rows in tables.items():
        write_part(out, name, rows)
    samples, histories, items, interactions = (read_table(out, name) for name in tables)
    rng = np.random.default_rng(0)
    vectors = {key: rng.normal(size=TEXT_DIM).astype(np.float32) for key in histories["history_id"].to_list()}
    return CTRInputs(samples, histories, items, interactions, 3.0, {"reccot": vectors})


def bench_plan(name: str) -> CTRSettings:
    """One epoch of a net with text, one seed."""
    return CTRSettings(
        net=getattr(trackrec.ctr, name),
        connector=trackrec.ctr.MLPConnector,
        model={},
        data={},
        trainer=partial(dict, accelerator="cpu", max_epochs=1),
        arms=["reccot"],
        seeds=[0],
        patience=1,
    )


def bench(name: str, inputs: CTRInputs, folder: Path, candidates: int, repeats: int) -> tuple[Any, float]:
    """Milliseconds of a request by each way, and the largest difference between onnxruntime and torch."""
    import onnxruntime

    plan = bench_plan(name)
    ctr_dir = folder / name
    output = folder / f"{name}-export"
    run_ctr(inputs, plan, ctr_dir, 0, lambda _: None)
    written = export_bundle(inputs, plan, ctr_dir, "reccot", 0, 0, output)
    data = saved_features(inputs, plan, ctr_dir, "reccot", 0, 0)
    net = load_net(plan, data.spec_for("reccot"), saved_net(ctr_dir, "reccot", 0))
    bundle = open_bundle(output)
    encoder, ranker = RequestEncoder(bundle), Ranker(bundle)
    state = next(bundle.users())
    films = inputs.items["item_id"].sample(candidates, seed=0).to_list()
    request = encoder.of_net(bundle.nets[0], encoder.inputs(state, films))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = str(bundle.path / bundle.nets[0].file)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    batch = {key: torch.from_numpy(value) for key, value in request.items()}

    def by_torch() -> None:
        with torch.inference_mode():
            net(batch).sigmoid().numpy()

    ways = {
        "onnxruntime": lambda: session.run(["p"], request),
        "torch": by_torch,
        "inputs": lambda: encoder.of_net(bundle.nets[0], encoder.inputs(state, films)),
        "answer": lambda: ranker.answer(state, films),
    }
    return compare(ways, repeats), written.difference


def compare(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, float]]:
    """Median and 95th percentile in milliseconds, turn by turn after at most ten turns that aren't counted."""
    milliseconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(-min(10, repeats), repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if repeat >= 0:
                milliseconds[name].append(1000 * (time.perf_counter() - started))
    return {
        name: {"median ms": statistics.median(values), "p95 ms": float(np.quantile(values, 0.95))}
        for name, values in milliseconds.items()
    }


if __name__ == "__main__":
    main()
