"""Time and peak memory of the data stage on a large random log: read it, build histories and samples, write and hash.

    python scripts/bench_table.py --rows 22000000 --users 160000 --items 60000

Some users and items are drawn more often than others. The stage runs in a process of its own, ``trackrec fit --stages
data``; time and memory are those of its manifest. Prints one line of a table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

ROOT = Path(__file__).parent.parent


def write_log(path: Path, rows: int, users: int, items: int) -> None:
    """A CSV of user, item, rating and time in seconds, written a million rows at a time."""
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        for start in range(0, rows, 1_000_000):
            count = min(1_000_000, rows - start)
            frame = pl.DataFrame(
                {
                    "user": (users * rng.random(count) ** 1.5).astype(np.int64),
                    "item": (items * rng.random(count) ** 2).astype(np.int64),
                    "rating": rng.integers(1, 6, count),
                    "time": rng.integers(1_000_000_000, 1_200_000_000, count),
                }
            )
            frame.write_csv(file, include_header=start == 0)


def main() -> None:
    """Write the log, run the stage, print its time and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=22_000_000)
    parser.add_argument("--users", type=int, default=160_000)
    parser.add_argument("--items", type=int, default=60_000)
    parser.add_argument("--per", choices=["user", "sample"], default="user")
    parser.add_argument("--folder", type=Path, help="folder for the log and the run; default: a temporary folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "log.csv"
        run_dir = folder / "run"
        write_log(log, args.rows, args.users, args.items)
        columns = {"user": "user", "item": "item", "rating": "rating", "timestamp": "time"}
        dataset = {"class_path": "Table", "init_args": {"ratings": str(log), "columns": columns}}
        settings = {"dataset": dataset, "samples": {"protocol": "temporal", "per": args.per}, "run_dir": str(run_dir)}
        # The data stage reads no model, but the models of a config must exist: these come with the repository.
        settings |= {key: {"model": str(ROOT / "models" / "world-1m")} for key in ("backbone", "embed")}
        config = folder / "log.yaml"
        config.write_text(json.dumps(settings))  # JSON is YAML
        base = str(ROOT / "configs" / "quickstart.yaml")
        command = [sys.executable, "-m", "trackrec", "fit", "--config", base, "--config", str(config)]
        subprocess.run(
            [*command, "--stages", "data"], check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        manifest = json.loads((run_dir / "data" / "manifest.json").read_text())
        written = sum(path.stat().st_size for path in (run_dir / "data").rglob("*") if path.is_file())
        print(
            f"| {args.rows:,} rows, {args.users:,} users, {args.items:,} items, per {args.per} "
            f"| {log.stat().st_size / 1e6:,.0f} MB | {manifest['rows']} | {written / 1e6:,.0f} MB "
            f"| {manifest['seconds']:,.0f} s | {manifest['peak_memory_bytes'] / 2**30:.2f} GiB |"
        )


if __name__ == "__main__":
    main()
