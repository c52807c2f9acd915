"""Round by round: what the alignment did to G's reward, what Rec-Tuning did to V, and the rewards of the draws."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from trackrec.metrics.intervals import user_bootstrap
from trackrec.metrics.scores import auc
from trackrec.recipe.names import in_round, without_text
from trackrec.report.numbers import RunNumbers, as_num
from trackrec.report.render.document import Cell, Figure, Missing, Num, Section, TableBlock, Unit
from trackrec.report.render.figures import Reference, by_round, histogram
from trackrec.report.sections.judgements import draw_rewards, paired_difference, reward_difference

_CHANCE = Reference("chance", Num(0.5))


class Round(NamedTuple):
    """What is known of one round, on validation rows; None where it wasn't measured."""

    name: str
    reward: Num | None
    before: Num | None
    change: Num | None
    auc: Num | None
    acc: Num | None
    tuning: Num | None


def round_name(number: int) -> str:
    """``0, start``, ``1`` ..."""
    return str(number) if number else "0, start"


def measured_round(run: RunNumbers, number: int) -> Round | None:
    """One line of the table, None where the round wasn't evaluated."""
    stage = in_round(number, "evaluate")
    if not run.has(stage):
        return None
    tuned = "tuned" if run.measured(stage, "valid", "tuned", "auc", number) else "judge"
    names = run.validators(stage)
    judge = next((name for name in names if name != in_round(number, "rec_tune")), None)
    new = run.answers(stage, judge) if judge else None
    old = run.answers(in_round(number - 1, "evaluate"), judge) if judge and number else None
    ours = run.answers(stage, in_round(number, "rec_tune")) if number else None
    before = None
    if old is not None and number:
        earlier = in_round(number - 1, "evaluate")
        arm = "tuned" if run.measured(earlier, "valid", "tuned", "auc", number - 1) else "judge"
        before = run.measured(earlier, "valid", arm, "reward", number - 1)
    return Round(
        round_name(number),
        run.measured(stage, "valid", "judge", "reward", number),
        before,
        reward_difference(new, old) if new is not None and old is not None else None,
        run.measured(stage, "valid", tuned, "auc", number),
        run.measured(stage, "valid", tuned, "acc", number),
        paired_difference(auc, ours, new, "p_yes") if ours is not None and new is not None else None,
    )


def rounds_section(run: RunNumbers) -> Section:
    """G's held-out reward and V's AUC and ACC, round by round."""
    found = [line for number in range(run.rounds + 1) if (line := measured_round(run, number))]
    if not found:
        return Section("rounds", "Round by round", [Missing("No round was evaluated yet: run `trackrec fit`.")])
    columns = ("round", "reward before", "reward after", "change", "V AUC", "V ACC", "V's change in AUC", "rows")
    rows: list[list[Cell]] = []
    for line in found:
        nums = (line.before, line.reward, line.change, line.auc, line.acc, line.tuning)
        count = Num(line.auc.n or 0, unit="count") if line.auc else "–"
        rows.append([line.name, *(num or "–" for num in nums), count])
    table = TableBlock(
        "Validation rows. The reward of G's greedy texts is V's probability of the true label, per class first, judged "
        "in each line by one V, the one that scored the round's draws. V's change in AUC is Rec-Tuning's: the new V "
        "against the old one on the same texts. Changes are paired on the same rows; intervals are 95 %, over users.",
        columns,
        rows,
    )
    return Section("rounds", "Round by round", [_rounds_figure(run, found, table)])


def _rounds_figure(run: RunNumbers, found: list[Round], table: TableBlock) -> Figure:
    names = [line.name.split(",")[0] for line in found]
    levels = [_CHANCE]
    if plain := run.measured(without_text("evaluate"), "valid", "plain", "auc"):
        levels.append(Reference("V without RecCoT", Num(plain.value)))
    panels = [
        by_round("V's AUC", names, [line.auc for line in found], [*levels, *_ceilings(run, "auc")]),
        by_round("V's ACC", names, [line.acc for line in found], _ceilings(run, "acc")),
        by_round("G's reward", names, [line.reward for line in found], _ceilings(run, "reward")),
    ]
    if any(line.change for line in found):
        zero = [Reference("no change", Num(0.0))]
        panels.append(by_round("Change in G's reward", names, [line.change for line in found], zero))
    return Figure(
        "The loop works when V's AUC stands above chance and above the V that reads no RecCoT, and when the change "
        "in G's reward stands above zero. Bars are 95 % intervals over users: where they overlap a lot, rounds don't "
        "differ.",
        panels,
        table,
    )


def _ceilings(run: RunNumbers, name: str) -> list[Reference]:
    """What anyone could reach at best, and what a reader of the histories could, where that is known."""
    readers = {"ceiling": "bayes", "best reader": "told"}
    found = {label: run.ceiling("valid", name, reader) for label, reader in readers.items()}
    return [Reference(label, level) for label, level in found.items() if level]


# -- rewards of the draws -----------------------------------------------------------------------------------------


def rewards_section(run: RunNumbers) -> Section:
    """Histograms of the draws' rewards, and of how far V tells one user's draws apart."""
    found = {number: rows for number in range(1, run.rounds + 1) if (rows := draw_rewards(run, number)) is not None}
    if not found:
        return Section("rewards", "Rewards of the draws", [Missing("No draw was scored yet: run `trackrec fit`.")])
    spreads = {
        number: rows.group_by("history_id", "user_id").agg(reward=pl.col("reward").max() - pl.col("reward").min())
        for number, rows in found.items()
    }
    both = zip(_histograms("Reward", "reward", found), _histograms("Best minus worst", "spread", spreads), strict=True)
    least = float(run.saved_config["align"]["sets"]["min_spread"])
    lines: list[list[Cell]] = []
    for number in found:
        draws, spread = found[number], spreads[number]
        small = spread.with_columns(reward=(pl.col("reward") < least).cast(pl.Float64))
        counts = [Num(len(rows), unit="count") for rows in (draws, spread)]
        lines.append([str(number), _mean(draws), _mean(spread), _mean(small, "share"), *counts])
    table = TableBlock(
        "Training rows that score (use: reward). Means with 95 % intervals over users. Spread is the best minus the "
        "worst reward of one history's draws; sets below align.sets.min_spread teach nothing and are dropped.",
        ("round", "mean reward", "mean spread", "spread too small", "draws", "histories"),
        lines,
    )
    caption = (
        "First all draws of a round: a peak on each side of .5 means that V leans to one answer, whatever the text "
        "says. Then what one user's draws differ by: the wider, the more V has to tell G. The line is the mean."
    )
    return Section(
        "rewards",
        "Rewards of the draws",
        [Figure(caption, [panel for pair in both for panel in pair], table, pairs=True)],
    )


def _histograms(title: str, axis: str, frames: dict[int, pl.DataFrame]) -> list[str]:
    values = {number: frame["reward"].to_numpy() for number, frame in frames.items()}
    low, high = min(map(np.min, values.values())), max(map(np.max, values.values()))
    edges = np.linspace(low, max(high, low + 1e-3), 25).tolist()
    most = max(float((np.histogram(own, edges)[0] / len(own)).max()) for own in values.values())
    return [
        histogram(f"{title}, round {number}", own.tolist(), edges, 1.05 * most, axis, number - 1)
        for number, own in values.items()
    ]


def _mean(rows: pl.DataFrame, unit: Unit = "score") -> Num:
    values = rows["reward"].to_numpy().astype(np.float64)
    return as_num(user_bootstrap(np.mean, rows["user_id"].to_numpy(), values, n_resamples=500), unit)
