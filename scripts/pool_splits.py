"""Differences over several user splits: ``python scripts/pool_splits.py runs/split-101 runs/split-102 ...``.

Each run is a whole experiment with a seed of its own: another split into users, other draws, another G, V and nets. A
line holds one difference in AUC: its value in every split with the interval over that split's users (and, for nets, its
training seeds), then the mean over splits with Student's interval, t(n - 1) · s / √n, in which users, seeds and splits
all vary. Test users of two splits overlap, so that this interval is somewhat too narrow. ``--split test`` reads what
``trackrec test`` has written; it doesn't read the test split by itself.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from trackrec.commands.sweep_table import seed_interval
from trackrec.metrics.scores import auc
from trackrec.recipe.names import TEST
from trackrec.report.numbers import RunNumbers, as_num
from trackrec.report.render.document import Num
from trackrec.report.sections.judgements import paired_difference
from trackrec.report.sections.reading import readers

_OTHERS = ("none", "best_placebo", "facts")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--split", choices=["valid", "test"], default="valid")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    args = parser.parse_args()
    if len(set(args.runs)) < len(args.runs):
        raise SystemExit("a run is named twice: its split would count twice.")
    found = {str(run): differences(run_of(run), args.split) for run in args.runs}
    lines = pooled(found)
    if not lines:
        raise SystemExit(f"none of {', '.join(found)} has a RecCoT measured on {args.split} rows.")
    for name, (whole, by_run) in lines.items():
        parts = "  ".join(f"{run} {shown(num)}" for run, num in by_run.items())
        print(f"{name:36} {shown(whole):26} {parts}")
    if args.json:
        plain = {
            name: {"mean": asdict(whole), **{run: asdict(num) for run, num in by_run.items()}}
            for name, (whole, by_run) in lines.items()
        }
        args.json.write_text(json.dumps(plain, indent=1) + "\n")


def run_of(directory: Path) -> RunNumbers:
    """The numbers of a run directory, with the configuration of the stage that ran last.

    Raises:
        SystemExit: no stage finished there.
    """
    run = RunNumbers(directory, {"loop": {"rounds": 1_000}})
    if not run.manifests:
        raise SystemExit(f"{str(directory)!r} is no run directory: no stage finished there.")
    return RunNumbers(directory, run.saved_config)


def shown(num: Num) -> str:
    """``+.0210 [.0042, .0390]``."""
    return f"{num.text} {num.interval}".strip()


def differences(run: RunNumbers, split: str) -> dict[str, Num]:
    """RecCoT minus everything else that V or the nets read, in AUC on the rows of a split."""
    found: dict[str, Num] = {}
    read = readers(run, split)
    ours = read.pop("reccot", None)
    for name, other in read.items():
        if ours is not None and ours.answers is not None and other.answers is not None:
            difference = paired_difference(auc, ours.answers, other.answers, "p_yes")
            if difference is not None:
                found[f"V: RecCoT minus {name}"] = difference
    stage = TEST if split == "test" else "ctr"
    for suffix in ("/no_stats", ""):
        for other_arm in _OTHERS:
            value = run.measured(stage, split, f"reccot{suffix}", f"auc_minus_{other_arm}", unit="signed")
            if value is not None:
                found[f"net{suffix}: RecCoT minus {other_arm}"] = value
    return found


def pooled(found: Mapping[str, Mapping[str, Num]]) -> dict[str, tuple[Num, dict[str, Num]]]:
    """The mean over runs and the values by run, for each difference that a run has."""
    names: Sequence[str] = list(dict.fromkeys(name for values in found.values() for name in values))
    lines = {}
    for name in names:
        by_run = {run: values[name] for run, values in found.items() if name in values}
        lines[name] = as_num(seed_interval([num.value for num in by_run.values()]), "signed"), by_run
    return lines


if __name__ == "__main__":
    main()
