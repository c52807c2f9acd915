"""When does a text pay? ``python scripts/when_text_pays.py --config A.yaml [--config B.yaml] --output runs/when``.

AUC against how much of a user its reader sees: with the text, and without. Two readers are tried.

* The validator (V) sees the newest 0, 1, 2, 5 ... items of the history (``prompts.validator.max_history``, no counts,
  no kinds). It is tuned anew for each, once on texts of the distilled generator (G) and once without any.
* A CTR net sees the newest 1, 2, 5 ... items of the recent list (``ctr.features.recent_len``), with and without
  statistics of all that the user rated.

G is not aligned, so that all points read the same texts. Differences are paired on the same validation rows; their
intervals resample users (and, for the nets, training seeds). The test split isn't read. Points that are done are taken
over when the command is called again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from trackrec.metrics.scores import auc
from trackrec.recipe.names import in_round, without_text
from trackrec.report.numbers import RunNumbers
from trackrec.report.render.document import Num
from trackrec.report.render.svg import element, line, ticks, words
from trackrec.report.sections.judgements import paired_difference

_V_STAGES = (
    *("data", "teacher", "distill"),
    *(in_round(0, kind) for kind in ("greedy", "rec_tune", "evaluate")),
    *(in_round(1, kind) for kind in ("greedy", "rec_tune", "evaluate")),
    *(without_text(kind) for kind in ("rec_tune", "evaluate")),
)
_NET_STAGES = (*_V_STAGES, "texts", "embed", "ctr")
_COLORS = {"with the text": "#1f6f8b", "without": "#b5532a"}


class Point(NamedTuple):
    """One reader that sees so much: its AUC with and without the text, and their paired difference."""

    reader: str
    seen: int
    with_text: Num
    without: Num
    difference: Num


def main() -> None:
    """Run what isn't done, print the table, write the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", type=Path, action="append", required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs, when.json and when.svg")
    parser.add_argument("--seen", type=lambda text: [int(part) for part in text.split(",")], default=[0, 1, 2, 5, 10])
    parser.add_argument("--readers", default="validator,net", help="validator, net, or both")
    parser.add_argument("--seed", type=int, default=None, help="seed_everything")
    args, own = parser.parse_known_args()  # everything else is a key of the configuration
    readers = args.readers.split(",")
    if not set(readers) <= {"validator", "net"}:
        raise SystemExit(f"--readers must be validator, net or both with a comma, got {args.readers!r}")
    given = [word for path in args.config for word in ("--config", str(path))] + own
    given += [] if args.seed is None else ["--seed_everything", str(args.seed)]
    args.output.mkdir(parents=True, exist_ok=True)
    points: list[Point] = []
    if "validator" in readers:
        points += [validator_point(given, args.output, seen) for seen in args.seen]
    if "net" in readers:
        for statistics in ("none", "all"):
            points += [net_point(given, args.output, seen, statistics) for seen in args.seen if seen]
    print(table(points))
    rows = [
        [point.reader, point.seen, *([num.value, num.low, num.high, num.n] for num in point[2:])] for point in points
    ]
    (args.output / "when.json").write_text(json.dumps(rows, indent=1) + "\n")
    (args.output / "when.svg").write_text(figure(points))


def validator_point(given: Sequence[str], output: Path, seen: int) -> Point:
    """V that sees the newest ``seen`` items of the history."""
    run = fit(given, output, f"validator-{seen}", {"prompts.validator.max_history": seen}, _V_STAGES)
    with_text, without = in_round(1, "rec_tune"), without_text("rec_tune")
    read, bare = run.answers(in_round(1, "evaluate"), with_text), run.answers(without_text("evaluate"), without)
    levels = [
        run.measured(in_round(1, "evaluate"), "valid", "tuned", "auc", 1),
        run.measured(without_text("evaluate"), "valid", "plain", "auc"),
    ]
    if read is None or bare is None or levels[0] is None or levels[1] is None:
        raise SystemExit(f"{run.run_dir}: V wasn't evaluated")
    return Point("V", seen, levels[0], levels[1], paired_difference(auc, read, bare, "p_yes"))


def net_point(given: Sequence[str], output: Path, seen: int, statistics: str) -> Point:
    """A CTR net that sees the newest ``seen`` items of the recent list."""
    keys = {
        "prompts.validator.max_history": 0,
        "ctr.features.recent_len": seen,
        "ctr.features.history_statistics": statistics,
        "ctr.arms": "[none,reccot]",
    }
    run = fit(given, output, f"net-{statistics}-{seen}", keys, _NET_STAGES)
    values = [
        run.measured("ctr", "valid", arm, name)
        for arm, name in (("reccot", "auc"), ("none", "auc"), ("reccot", "auc_minus_none"))
    ]
    if values[0] is None or values[1] is None or values[2] is None:
        raise SystemExit(f"{run.run_dir}: the nets weren't trained")
    return Point(f"net, statistics {statistics}", seen, values[0], values[1], values[2])


def fit(given: Sequence[str], output: Path, name: str, keys: dict[str, Any], stages: Sequence[str]) -> RunNumbers:
    """``trackrec fit`` of one point, which takes over what another one has made."""
    fixed = {
        **{"loop.rounds": 1, "loop.align": "false", "loop.comparisons": "[]"},
        **{"prompts.validator.history_counts": "false", "prompts.validator.history_kinds": 0},
        **keys,
    }
    command = [sys.executable, "-m", "trackrec", "fit", *given, "--run_dir", str(output / name)]
    command += [word for key, value in fixed.items() for word in (f"--{key}", str(value))]
    command += ["--reuse", str(output), "--stages", ",".join(stages)]
    if code := subprocess.run(command, stdout=sys.stderr).returncode:
        raise SystemExit(f"the run {output / name} ended with {code}; its own words stand above")
    return RunNumbers(output / name, RunNumbers(output / name, {"loop": {"rounds": 1}}).saved_config)


def table(points: Sequence[Point]) -> str:
    """The points as Markdown."""
    lines = ["| reader | sees | without | with the text | difference |", "|---|---|---|---|---|"]
    for point in points:
        numbers = " | ".join(f"{num.text} {num.interval}" for num in (point.without, point.with_text, point.difference))
        lines.append(f"| {point.reader} | {point.seen} | {numbers} |")
    return "\n".join(lines)


def figure(points: Sequence[Point]) -> str:
    """One panel per reader as an SVG document: AUC with its interval against what the reader sees."""
    readers = list(dict.fromkeys(point.reader for point in points))
    ends = [end for point in points for num in (point.with_text, point.without) for end in (num.low, num.high)]
    low, high = min(ends) - 0.01, max(ends) + 0.01
    width, height, left, top = 300, 240, 46, 44

    def y(value: float) -> float:
        return top + (high - value) / (high - low) * (height - top - 40)

    parts = []
    for number, reader in enumerate(readers):
        shown = [point for point in points if point.reader == reader]
        x0, end = number * width + left, (number + 1) * width - 8
        step = (end - x0 - 10) / max(1, len(shown) - 1)
        parts.append(words(x0, 18, f"AUC of {reader}", "title"))
        for mark in ticks(low, high, 4):
            parts += [line(x0, y(mark), end, y(mark), "grid"), words(x0 - 6, y(mark) + 4, f"{mark:.2f}", anchor="end")]
        for series, (name, color) in enumerate(_COLORS.items()):
            nums = [point.with_text if name == "with the text" else point.without for point in shown]
            places = [(x0 + 4 + step * index + 3 * series, num) for index, num in enumerate(nums)]
            path = " ".join(f"{x:.1f},{y(num.value):.1f}" for x, num in places)
            parts.append(element("polyline", points=path, fill="none", stroke=color))
            parts.append(element("text", escape(name), x=x0 + 110 * series, y=34, style=f"fill:{color}"))
            for x, num in places:
                parts.append(element("line", x1=x, x2=x, y1=y(num.low), y2=y(num.high), stroke=color))
                parts.append(element("circle", cx=x, cy=y(num.value), r=3.2, fill=color))
        marks = [
            words(x0 + 4 + step * index, height - 22, str(p.seen), anchor="middle") for index, p in enumerate(shown)
        ]
        parts += [*marks, words(x0, height - 6, "items that the reader sees")]
    size = f'width="{width * len(readers)}" height="{height}"'
    style = "text{font:12px sans-serif;fill:#333}.title{font-weight:bold}.grid{stroke:#ddd}"
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{style}</style>{"".join(parts)}</svg>\n'


if __name__ == "__main__":
    main()
