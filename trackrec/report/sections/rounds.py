"""Round by round: the reward of the generator (G), metrics of the validator (V), and the rewards of the draws."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from markupsafe import Markup

from trackrec.metrics.intervals import user_bootstrap
from trackrec.metrics.scores import auc
from trackrec.recipe.names import in_round, without_text
from trackrec.report.numbers import RunNumbers, as_num
from trackrec.report.render.document import Cell, Figure, Missing, Num, Section, TableBlock, Unit
from trackrec.report.render.figures import Reference, by_round, histogram
from trackrec.report.sections.judgements import draw_rewards, paired_difference, reward_difference

_CHANCE = Reference("chance", Num(0.5))


class Round(NamedTuple):
    """Numbers of one round, on validation rows; None if not measured."""

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
    """One line of the table, None if the round wasn't evaluated."""
    stage = in_round(number, "evaluate")
    if not run.has(stage):
        return None
    tuned = "tuned" if run.measured(stage, "valid", "tuned", "auc", number) else "scorer"
    names = run.validators(stage)
    # The validator that scored the round's draws; the other one in the stage was tuned in the round.
    scorer = next((name for name in names if name != in_round(number, "rec_tune")), None)
    new = run.answers(stage, scorer) if scorer else None
    old = run.answers(in_round(number - 1, "evaluate"), scorer) if scorer and number else None
    retuned = run.answers(stage, in_round(number, "rec_tune")) if number else None
    before = None
    if old is not None and number:
        earlier = in_round(number - 1, "evaluate")
        arm = "tuned" if run.measured(earlier, "valid", "tuned", "auc", number - 1) else "scorer"
        before = run.measured(earlier, "valid", arm, "reward", number - 1)
    return Round(
        round_name(number),
        run.measured(stage, "valid", "scorer", "reward", number),
        before,
        reward_difference(new, old) if new is not None and old is not None else None,
        run.measured(stage, "valid", tuned, "auc", number),
        run.measured(stage, "valid", tuned, "acc", number),
        paired_difference(auc, retuned, new, "p_yes") if retuned is not None and new is not None else None,
    )


def rounds_section(run: RunNumbers) -> Section:
    """G's held-out reward and V's AUC and ACC, round by round."""
    lines = [line for number in range(run.rounds + 1) if (line := measured_round(run, number))]
    if not lines:
        return Section("rounds", "Round by round", [Missing("No round was evaluated yet: run `trackrec fit`.")])
    columns = ("round", "reward before", "reward after", "change", "V AUC", "V ACC", "V's change in AUC", "rows")
    rows: list[list[Cell]] = []
    for line in lines:
        nums = (line.before, line.reward, line.change, line.auc, line.acc, line.tuning)
        count = Num(line.auc.n or 0, unit="count") if line.auc else "–"
        rows.append([line.name, *(num or "–" for num in nums), count])
    table = TableBlock(
        "Validation rows. The reward of G's greedy texts is V's probability of the true label, averaged per class "
        "first; the V that scored the round's draws computes all rewards of a line. V's change in AUC is the effect of "
        "Rec-Tuning: the new V minus the old one on the same texts. Changes are paired on the same rows; intervals are "
        "95 %, over users.",
        columns,
        rows,
    )
    return Section("rounds", "Round by round", [_rounds_figure(run, lines, table)])


def _rounds_figure(run: RunNumbers, lines: list[Round], table: TableBlock) -> Figure:
    names = [line.name.split(",")[0] for line in lines]
    levels = [_CHANCE]
    if plain := run.measured(without_text("evaluate"), "valid", "plain", "auc"):
        levels.append(Reference("V without RecCoT", Num(plain.value)))
    panels = [
        by_round("V's AUC", names, [line.auc for line in lines], [*levels, *_ceilings(run, "auc")]),
        by_round("V's ACC", names, [line.acc for line in lines], _ceilings(run, "acc")),
        by_round("G's reward", names, [line.reward for line in lines], _ceilings(run, "reward")),
    ]
    if any(line.change for line in lines):
        zero = [Reference("no change", Num(0.0))]
        panels.append(by_round("Change in G's reward", names, [line.change for line in lines], zero))
    return Figure(
        "The loop works if V's AUC is above chance and above that of the V without RecCoT, and if the change in G's "
        "reward is above zero. Bars are 95 % intervals over users: where they overlap a lot, rounds don't differ.",
        panels,
        table,
    )


def _ceilings(run: RunNumbers, name: str) -> list[Reference]:
    """The best possible value, and the best for a predictor from the histories, if a simulated world knows them."""
    readers = {"ceiling": "bayes", "best reader": "told"}
    levels = {label: run.ceiling("valid", name, reader) for label, reader in readers.items()}
    return [Reference(label, level) for label, level in levels.items() if level]


# -- rewards of the draws -----------------------------------------------------------------------------------------


def rewards_section(run: RunNumbers) -> Section:
    """Histograms of the draws' rewards, and of the spread between one history's draws."""
    rewards = {number: rows for number in range(1, run.rounds + 1) if (rows := draw_rewards(run, number)) is not None}
    if not rewards:
        return Section("rewards", "Rewards of the draws", [Missing("No draw was scored yet: run `trackrec fit`.")])
    spreads = {
        number: rows.group_by("history_id", "user_id").agg(reward=pl.col("reward").max() - pl.col("reward").min())
        for number, rows in rewards.items()
    }
    pairs = zip(
        _histograms("Reward", "reward", rewards), _histograms("Best minus worst", "spread", spreads), strict=True
    )
    min_spread = float(run.saved_config["align"]["sets"]["min_spread"])
    lines: list[list[Cell]] = []
    for number in rewards:
        draws, spread = rewards[number], spreads[number]
        small = spread.with_columns(reward=(pl.col("reward") < min_spread).cast(pl.Float64))
        counts = [Num(len(rows), unit="count") for rows in (draws, spread)]
        lines.append([str(number), _mean(draws), _mean(spread), _mean(small, "share"), *counts])
    table = TableBlock(
        "Train rows for rewards (use: reward). Means with 95 % intervals over users. Spread is the best minus the "
        "worst reward of one history's draws; sets below align.sets.min_spread teach nothing and are dropped.",
        ("round", "mean reward", "mean spread", "spread too small", "draws", "histories"),
        lines,
    )
    caption = (
        "First the rewards of all draws of a round: a peak on each side of .5 means that V favours one answer, "
        "whatever the text says. Then the spread of one history's draws: the wider, the more G can learn. The line is "
        "the mean."
    )
    panels = [panel for pair in pairs for panel in pair]
    return Section("rewards", "Rewards of the draws", [Figure(caption, panels, table, pairs=True)])


def _histograms(title: str, axis: str, frames: dict[int, pl.DataFrame]) -> list[Markup]:
    values = {number: frame["reward"].to_numpy() for number, frame in frames.items()}
    low, high = min(map(np.min, values.values())), max(map(np.max, values.values()))
    edges = np.linspace(low, max(high, low + 1e-3), 25).tolist()
    most = max(float((np.histogram(array, edges)[0] / len(array)).max()) for array in values.values())
    return [
        histogram(f"{title}, round {number}", array.tolist(), edges, 1.05 * most, axis, number - 1)
        for number, array in values.items()
    ]


def _mean(rows: pl.DataFrame, unit: Unit = "score") -> Num:
    values = rows["reward"].to_numpy().astype(np.float64)
    return as_num(user_bootstrap(np.mean, rows["user_id"].to_numpy(), values, n_resamples=500), unit)
