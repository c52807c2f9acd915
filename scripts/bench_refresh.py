"""`trackrec refresh` over many made-up users: users/s and the largest memory of any of its processes.

    python scripts/bench_refresh.py --users 1000000
    python scripts/bench_refresh.py --users 10000000 --plan_only

The texts are those of the profile writer, which needs no model, and vectors are left out: what is measured is the work
around the model, which must neither grow in memory with the number of users nor be what a GPU waits for.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import yaml

ITEMS = 5_000
_CHUNK_USERS = 500_000


def write_log(folder: Path, users: int, each: int) -> None:
    """Parquet files of ``each`` ratings by every user, users mixed as a log of events has them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, start in enumerate(range(0, users, _CHUNK_USERS)):
        some = min(_CHUNK_USERS, users - start)
        who = np.repeat(np.arange(start, start + some), each)
        when = rng.integers(1_700_000_000, 1_760_000_000, len(who))
        order = np.argsort(when, kind="stable")
        pl.DataFrame(
            {
                "user_id": pl.Series(who[order]).cast(pl.String),
                "item_id": pl.Series(rng.integers(0, ITEMS, len(who))).cast(pl.String),
                "rating": rng.integers(1, 6, len(who)).astype(np.float32),
                "timestamp": when[order],
            }
        ).write_parquet(folder / f"log-{number:03d}.parquet")


def write_run(folder: Path) -> Path:
    """A configuration over a small log of the same items; its data stage gives the catalogue."""
    rng = np.random.default_rng(1)
    rows = ["user,item,stars,when"]
    rows += [
        f"s{place % 500},{place % ITEMS},{1 + int(rng.integers(5))},{1_700_000_000 + place}"
        for place in range(4 * ITEMS)
    ]
    (folder / "small.csv").write_text("\n".join(rows) + "\n")
    kinds = ("War", "Drama", "Comedy", "Horror", "Action", "Romance")
    lines = [f"{item},Film number {item},{kinds[item % 6]}" for item in range(ITEMS)]
    (folder / "items.csv").write_text("\n".join(["item,title,kind", *lines]) + "\n")
    columns = {"user": "user", "item": "item", "rating": "stars", "timestamp": "when"}
    item_columns = {"id": "item", "title": "title", "attributes": "kind"}
    source = {"ratings": str(folder / "small.csv"), "items": str(folder / "items.csv")}
    values = {
        "run_dir": str(folder / "run"),
        "dataset": {"class_path": "Table", "init_args": {**source, "columns": columns, "item_columns": item_columns}},
        "backbone": {"model": "none-is-loaded"},
        "loop": {"distill": False, "align": False},
        "ctr": {"arms": ["none"]},
        "bulk": {"tiers": [{"name": "profile", "writer": "profile"}], "embed": False},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    return folder / "run.yaml"


def trackrec(*words: str) -> float:
    """Run a command; returns its seconds."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "trackrec", *words], check=True)
    return time.perf_counter() - started


def main() -> None:
    """Make the users, refresh, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--each", type=int, default=12, help="Ratings of each user.")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--plan_only", action="store_true", help="A dry run.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trackrec-bench-") as name:
        folder = Path(name)
        write_log(folder / "log", args.users, args.each)
        config = write_run(folder)
        trackrec("fit", "--config", str(config), "--stages", "data")
        words = ["refresh", "--config", str(config), "--ratings", str(folder / "log"), "--output", str(folder / "gens")]
        words += ["--engine", "local", "--engine.workers", str(args.workers)]
        seconds = trackrec(*words, *(["--dry-run"] if args.plan_only else []))
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        work = "planned" if args.plan_only else "planned and written"
        print(
            f"{args.users:,} users of {args.each} ratings {work}: {seconds:,.0f} s, "
            f"{args.users / seconds:,.0f} users/s, {args.workers} workers; largest process {peak:.2f} GiB"
        )


if __name__ == "__main__":
    main()
