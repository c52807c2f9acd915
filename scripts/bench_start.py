"""How long commands take to start: two installations take turns, and the ratio of each turn counts.

python scripts/bench_start.py --before ../old/.venv/bin/python --repeats 5
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = str(Path(__file__).parents[1] / "configs" / "quickstart.yaml")


def calls(folder: Path) -> list[list[str]]:
    """What is timed."""
    log = folder / "log.csv"
    log.write_text("user,item,rating\n" + "".join(f"u{i % 20},i{i % 37},{1 + i % 5}\n" for i in range(400)))
    return [
        ["--help"],
        ["report", "--help"],
        ["init", "--ratings", str(log), "--output", str(folder / "my.yaml"), "--yes", "--force"],
        ["fit", "--help"],
        ["report", "--config", CONFIG, "--run_dir", str(folder / "run")],  # ends by saying that no stage is done
        ["data", "--config", CONFIG],
        ["plan", "--config", CONFIG],
    ]


def seconds(python: str, words: list[str]) -> float:
    """Of one call. With -P the package of the installation runs, and not the one in the current folder."""
    start = time.perf_counter()
    subprocess.run([python, "-P", "-m", "trackrec", *words], capture_output=True, check=False)
    return time.perf_counter() - start


def main() -> None:
    """Print the medians of both and of their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", default=sys.executable, help="The Python of the other installation.")
    parser.add_argument("--repeats", type=int, default=5, help="Turns; a first one is not counted.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for words in calls(Path(folder)):
            turns = [(seconds(args.before, words), seconds(sys.executable, words)) for _ in range(args.repeats + 1)][1:]
            before, after = (statistics.median(times) for times in zip(*turns, strict=True))
            ratio = statistics.median(old / new for old, new in turns)
            sys.stdout.write(f"{' '.join(words[:2]):20} {before:6.2f} s {after:6.2f} s {ratio:6.1f}\n")


if __name__ == "__main__":
    main()
