"""What the runs of a sweep found, side by side: values, and differences to the experiment as it is.

Differences are paired: by training seed, and where a sweep has a single seed, by the rows on which both runs were
measured.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table as Grid

from trackrec.ctr.arms.verdict import arm_scores
from trackrec.metrics.intervals import Draws, Interval, seed_draws
from trackrec.metrics.scores import accuracy, auc, balanced_mean
from trackrec.recipe.names import in_round
from trackrec.report.numbers import RunNumbers
from trackrec.report.render.document import Num, Report, Section, TableBlock, Unit
from trackrec.report.render.markdown import to_markdown
from trackrec.storage.atomic import write_atomic

_LEVEL = 0.975  # two-sided 95 %
_NAN = float("nan")


class Outcome(NamedTuple):
    """A number that a sweep compares, on validation rows.

    Attributes:
        title: its heading.
        name: of the metric in the metrics tables.
        arms: the arm that holds it; the first that a run has. The last round's V is missing where Rec-Tuning is off:
            then the V that judged the round is the last one.
        metric: how it is computed from ``column`` and the labels.
        column: of V's answers, or empty for the CTR arm ``reccot``, from whose metric that of ``none`` is subtracted.
    """

    title: str
    name: str
    arms: tuple[str, ...]
    metric: Callable[..., Any]
    column: str = ""


OUTCOMES = (
    Outcome("V's AUC after the last round", "auc", ("tuned", "scorer"), auc, "p_yes"),
    Outcome("V's ACC after the last round", "acc", ("tuned", "scorer"), accuracy, "p_yes"),
    Outcome("G's reward after the last round", "reward", ("scorer",), balanced_mean, "p_true"),
    Outcome("AUC of the CTR net with RecCoT minus without", "auc_minus_none", ("reccot",), auc),
)
_NOTE = "A reward is what the run's own V gives: between runs whose V differs, compare V's AUC and the CTR net instead."


class Line(NamedTuple):
    """One variant's line of one outcome; ``n`` of both intervals are the seeds behind them."""

    outcome: str
    variant: str
    value: Interval
    difference: Interval


def sweep_lines(runs: Mapping[str, Mapping[int, RunNumbers]], seeds: Sequence[int]) -> list[Line]:
    """Per outcome and variant: the mean over seeds, and the mean difference to the first variant.

    Several seeds give Student's intervals over seeds. One seed gives intervals over users, paired on the same rows; a
    difference of runs that were measured on different rows has none.

    Args:
        runs: variant -> seed -> the run; one that failed is left out. The first variant is the base.
        seeds: all that were wanted.
    """
    lines = []
    base = next(iter(runs.values()))
    for outcome in OUTCOMES:
        first = {seed: measured(run, outcome) for seed, run in base.items()}
        for variant, own in runs.items():
            values = {seed: measured(run, outcome) for seed, run in own.items()}
            if len(seeds) == 1:
                value = values.get(seeds[0]) or _none()
                pair = (own.get(seeds[0]), base.get(seeds[0]))
                difference = _row_difference(*pair, outcome) if None not in pair else _none()  # type: ignore[arg-type]
            else:
                value = seed_interval([one.value for one in values.values()])
                both = [seed for seed in seeds if seed in values and seed in first]
                difference = seed_interval([values[seed].value - first[seed].value for seed in both])
            lines.append(Line(outcome.title, variant, value, difference))
    return lines


def measured(run: RunNumbers, outcome: Outcome) -> Interval:
    """One outcome of a run with its interval over users; NaN where the run has none."""
    stage, round_ = (in_round(run.rounds, "evaluate"), run.rounds) if outcome.column else ("ctr", -1)
    for arm in outcome.arms:
        if found := run.measured(stage, "valid", arm, outcome.name, round_):
            return Interval(found.value, found.low, found.high, 1)
    return _none()


def seed_interval(values: Sequence[float]) -> Interval:
    """Mean over seeds with Student's interval, t(n-1) · s / √n; no bounds for fewer than two numbers."""
    kept = np.array([value for value in values if not math.isnan(value)])
    if len(kept) < 2:
        return Interval(float(kept[0]) if len(kept) else _NAN, _NAN, _NAN, len(kept))
    from scipy.stats import t

    mean = float(kept.mean())
    half = float(t.ppf(_LEVEL, len(kept) - 1) * kept.std(ddof=1) / math.sqrt(len(kept)))
    return Interval(mean, mean - half, mean + half, len(kept))


def _none() -> Interval:
    return Interval(_NAN, _NAN, _NAN, 0)


def _row_difference(ours: RunNumbers, base: RunNumbers, outcome: Outcome) -> Interval:
    """ours - base on the same rows, users resampled; the bare difference where the rows differ."""
    plain = measured(ours, outcome).value - measured(base, outcome).value
    mine, theirs = _draws(ours, outcome), _draws(base, outcome)
    if math.isnan(plain) or mine is None or theirs is None or mine[0] != theirs[0]:
        return Interval(plain, _NAN, _NAN, 0 if math.isnan(plain) else 1)
    found = (mine[1] - theirs[1]).interval()
    return Interval(plain, found.low, found.high, 1)


def _draws(run: RunNumbers, outcome: Outcome) -> tuple[list[str], Draws] | None:
    """The ids of the rows behind an outcome, and its value with its resampled ones."""
    if not outcome.column:
        return _ctr_draws(run, outcome)
    stage, tuned = in_round(run.rounds, "evaluate"), in_round(run.rounds, "rec_tune")
    names = run.validators(stage)
    wanted = [name for name in names if (name == tuned) == ("tuned" in outcome.arms)] or names
    rows = run.answers(stage, wanted[0]) if wanted else None
    if rows is None:
        return None
    labels, users, p = (rows[name].to_numpy() for name in ("label", "user_id", outcome.column))
    return rows["sample_id"].to_list(), _resampled(outcome, users, labels, p)


def _ctr_draws(run: RunNumbers, outcome: Outcome) -> tuple[list[str], Draws] | None:
    predictions = run.table("ctr", "predictions")
    if predictions is None or not {"reccot", "none"} <= set(predictions["arm"].unique()):
        return None
    ours, none = (arm_scores(predictions, run.samples, "valid", arm) for arm in ("reccot", "none"))
    pair = [_resampled(outcome, one.users, one.labels, one.p) for one in (ours, none)]
    return ours.sample_ids.tolist(), pair[0] - pair[1]


def _resampled(outcome: Outcome, users: NDArray[Any], labels: NDArray[Any], p: NDArray[Any]) -> Draws:
    # The reward has no fast form: fewer resamples, as where it was measured.
    count = 500 if outcome.metric is balanced_mean else 1000
    return seed_draws(outcome.metric, users, labels, p.astype(np.float64), n_resamples=count)


# -- what is written ----------------------------------------------------------------------------------------------


def sweep_report(lines: Sequence[Line], title: str, seeds: Sequence[int], failed: Sequence[str]) -> Report:
    """The table as a document.

    Args:
        lines: see `sweep_lines`.
        title: of the document.
        seeds: of the sweep.
        failed: names of the runs that failed.
    """
    over = f"Means over {len(seeds)} seeds; intervals are 95 %, Student's t over seeds, differences paired by seed."
    if len(seeds) == 1:
        over = (
            "One seed; intervals are 95 %, paired on the same rows: over users only for V, without the chance of its "
            "training; for the CTR net over users and ctr.seeds, if several, with one G and V for all."
        )
    base = lines[0].variant
    sections = []
    for outcome in dict.fromkeys(line.outcome for line in lines):
        own = [line for line in lines if line.outcome == outcome]
        rows = [
            [line.variant, num(line.value), _difference(line, base), Num(line.value.n, unit="count")] for line in own
        ]
        caption = f"Validation rows. {over}" + (f" {_NOTE}" if "reward" in outcome else "")
        columns = ("variant", "value", f"difference to {base}", "runs")
        sections.append(Section(outcome, outcome, [TableBlock(caption, columns, rows)]))
    about = [f"seeds {', '.join(map(str, seeds))}"]
    about += [f"failed and left out: {', '.join(failed)}"] if failed else []
    return Report(title, about, sections)


def print_lines(lines: Sequence[Line], console: Console) -> None:
    """The table on a terminal."""
    table = Grid(title="Validation rows; intervals and seeds as in sweep.md", title_justify="left")
    for place, column in enumerate(("outcome", "variant", "value", f"difference to {lines[0].variant}", "runs")):
        table.add_column(column, justify="left" if place < 2 else "right", no_wrap=True)
    for number, line in enumerate(lines):
        new = not number or line.outcome != lines[number - 1].outcome
        if new and number:
            table.add_section()
        cells = (num(line.value), _difference(line, lines[0].variant))
        texts = [cell if isinstance(cell, str) else f"{cell.text} {cell.interval}".strip() for cell in cells]
        table.add_row(line.outcome if new else "", line.variant, *texts, str(line.value.n))
    console.print(table)


def _difference(line: Line, base: str) -> Num | str:
    return "–" if line.variant == base else num(line.difference, "signed")


def num(value: Interval, unit: Unit = "score") -> Num | str:
    """A cell; a dash where nothing was measured."""
    return "–" if math.isnan(value.value) else Num(value.value, value.low, value.high, unit=unit)


def write_sweep(
    out_dir: Path, lines: Sequence[Line], runs: Mapping[str, Mapping[int, RunNumbers]], report: Report
) -> None:
    """Write ``sweep.md``, ``sweep.csv`` (the table) and ``runs.csv`` (every run's numbers)."""
    table = [
        {"outcome": line.outcome, "variant": line.variant, "runs": line.value.n}
        | dict(zip(("value", "low", "high"), line.value[:3], strict=True))
        | dict(zip(("difference", "difference_low", "difference_high"), line.difference[:3], strict=True))
        for line in lines
    ]
    each = [
        {"variant": variant, "seed": seed, "outcome": outcome.title}
        | dict(zip(("value", "low", "high"), measured(run, outcome)[:3], strict=True))
        for variant, own in runs.items()
        for seed, run in own.items()
        for outcome in OUTCOMES
    ]
    for name, rows in (("sweep.csv", table), ("runs.csv", each)):
        content = io.BytesIO()
        pl.DataFrame(rows).fill_nan(None).write_csv(content)
        write_atomic(out_dir / name, content.getvalue())
    write_atomic(out_dir / "sweep.md", to_markdown(report))
