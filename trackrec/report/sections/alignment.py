"""S-DPO from its notes and logs: the number of sets, and the course of loss, margin, accuracy and likelihood.

Where sets were held back (``align.data.hold``), the course on these too.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from trackrec.align.reliability import COMMON, RELIABILITY
from trackrec.recipe.names import in_round
from trackrec.report.numbers import RunNumbers
from trackrec.report.render.document import Block, Cell, Figure, Missing, Num, Section, TableBlock, Unit
from trackrec.report.render.figures import curves
from trackrec.report.sections.judgements import reward_label_correlation

_CURVES: dict[str, tuple[str, Unit]] = {
    "loss": ("Loss", "score"),
    "margin": ("Margin", "signed"),
    "accuracy": ("Accuracy", "share"),
    "chosen_log_ratio": ("Chosen log-ratio, nats", "signed"),
    "saturated": ("Saturated sets", "share"),
}
_HELD: dict[str, tuple[str, Unit]] = {
    "valid/loss": ("Held-out loss", "score"),
    "valid/margin": ("Held-out margin", "signed"),
    "valid/accuracy": ("Held-out accuracy", "share"),
}
_DROPPED = {
    "dropped_one_draw": "one draw only",
    "dropped_all_cut": "all cut",
    "dropped_all_wrong": "all wrong",
    "dropped_small_spread": "small spread",
    "dropped_flattest": "flattest",
}
_END = 0.2


def alignment_section(run: RunNumbers) -> Section:
    """The sets of every round, and the curves of every alignment."""
    blocks: list[Block] = []
    rounds = [number for number in range(1, run.rounds + 1) if run.has(in_round(number, "preferences"))]
    if not rounds:
        text = "No preference set was made yet: run `trackrec fit`."
        return Section("alignment", "Alignment (S-DPO)", [Missing(text)])
    blocks.append(_sets_table(run, rounds))
    logs = {number: log for number in rounds if (log := run.step_logs(in_round(number, "align"))) is not None}
    with_loss = {number: log for number, log in logs.items() if "loss" in log.columns}
    if with_loss:
        blocks.append(_curves(with_loss, rounds))
    if held := _held_table(run, with_loss):
        blocks.append(held)
    skipped = {number: run.notes(in_round(number, "align")).get("reason") for number in rounds}
    blocks.extend(Missing(f"Round {number}: not aligned, {reason}.") for number, reason in skipped.items() if reason)
    if chosen := _candidates_table(run, rounds):
        blocks.append(chosen)
    without_loss = [
        number
        for number in rounds
        if number not in with_loss and run.has(in_round(number, "align")) and not skipped[number]
    ]
    if without_loss:
        blocks.extend(_last_steps(run, without_loss))
    return Section("alignment", "Alignment (S-DPO)", blocks)


def _sets_table(run: RunNumbers, rounds: Sequence[int]) -> TableBlock:
    notes = {number: run.notes(in_round(number, "preferences")) for number in rounds}
    reasons = [reason for reason in _DROPPED if any(counts.get(reason) for counts in notes.values())]
    keys = ("left_out", "histories", "draws", "equal_draws_merged", "cut_draws", *reasons, "sets")
    rows: list[list[Cell]] = []
    for number, counts in notes.items():
        cells = [Num(float(counts.get(key, 0)), unit="count") for key in keys]
        per_set = Num(counts["negatives"] / counts["sets"] if counts.get("sets") else float("nan"), unit="one")
        stage = in_round(number, "preferences")
        measured = [
            run.measured(stage, "train", "scorer", RELIABILITY, number, "signed"),
            run.measured(stage, "train", "scorer", COMMON, number, "share"),
            reward_label_correlation(run, number),
        ]
        rows.append([str(number), *cells, per_set, *(num or "–" for num in measured)])
    columns = (
        "round",
        "no rewards",
        "histories",
        "draws",
        "equal, merged",
        "cut",
        *(_DROPPED[reason] for reason in reasons),
    )
    return TableBlock(
        "Preference sets, from train rows. One set per history: the draw with the highest reward is chosen, the others "
        "are rejected. A set is dropped if all its draws are cut, if V is wrong on all of them, or if their rewards "
        "hardly differ. Histories without rewards lack likes or dislikes among their rows, and G draws nothing for "
        "them. Reliability is the correlation of two rewards of a draw within a history, from half of its targets "
        "each: near zero, alignment has nothing to learn from. Common is the share of the variance of V's log-odds "
        "over a history's draws that is common to its targets. The last column is the correlation of a target's "
        "reward with its label: near one, V's answer hardly depends on what it reads. Intervals are 95 %, over users.",
        (*columns, "sets", "negatives a set", "reliability", "common", "corr(reward, label)"),
        rows,
    )


def _curves(logs: dict[int, pl.DataFrame], rounds: Sequence[int]) -> Figure:
    names = [name for name in _CURVES if any(name in log.columns for log in logs.values())]
    panels = []
    for key in (key for name in names for key in (name, f"valid/{name}")):
        series = [_points(logs[number], key) if number in logs else [] for number in rounds]
        if any(series):
            title, unit = (_CURVES | _HELD)[key]
            panels.append(curves(title, series, zero=unit == "signed", share=unit == "share"))
    rows: list[list[Cell]] = []
    for number, log in logs.items():
        for name in names:
            values = [value for _, value in _points(log, name)]
            size = max(1, round(_END * len(values)))
            unit = _CURVES[name][1]
            ends = [
                Num(sum(part) / len(part), n=len(part), unit=unit) for part in (values[:size], values[-size:]) if part
            ]
            if len(ends) == 2:
                rows.append([str(number), _CURVES[name][0], *ends, Num(len(values), unit="count")])
    table = TableBlock(
        f"Means over the first and the last {100 * _END:.0f} % of the logged optimizer steps, on train sets. Steps of "
        "one training depend on each other, so there is no interval.",
        ("round", "measure", "first steps", "last steps", "steps"),
        rows,
    )
    caption = (
        "The loss starts at ln(1+K) and falls as the margin between chosen and rejected grows. A chosen log-ratio that "
        "falls far below zero means that the chosen texts themselves become unlikely: the likelihood is displaced. "
        "Saturated sets no longer teach anything. A held-out loss that rises while the loss falls means that G learns "
        "its sets by heart."
    )
    return Figure(caption, panels, table, [f"round {number}" for number in rounds], folded=True)


def _candidates_table(run: RunNumbers, rounds: Sequence[int]) -> TableBlock | None:
    """Which of each alignment's adapters was taken as G; None where none was chosen."""
    rows: list[list[Cell]] = []
    for number in rounds:
        stage = in_round(number, "select")
        if not run.has(stage):
            continue
        notes = run.notes(stage)
        if not notes.get("rewards"):
            rows.append([str(number), str(notes["taken"]), "–", "–", f"taken: {notes['reason']}"])
        for arm in sorted(notes.get("rewards", ()), key=lambda arm: (arm != "start", len(arm), arm)):
            reward = run.measured(stage, "valid", arm, "reward", number)
            change = run.measured(stage, "valid", arm, "reward_minus_start", number, "signed")
            taken = f"taken: {notes['reason']}" if arm == notes["taken"] else ""
            rows.append([str(number), arm, reward or "–", change or "–", taken])
    if not rows:
        return None
    return TableBlock(
        "The adapters of each alignment as V sees them (loop.candidates, loop.accept), and the G that sampled the "
        "draws, the start: the reward of their greedy texts about the half of the validation users that chooses, and "
        "its difference to the start's, paired on the same rows. Intervals are 95 %, over users. The best of several "
        "is chosen on these rows, so its reward is high by luck too; all other tables show the other half.",
        ("round", "G", "reward", "minus the start's", "taken"),
        rows,
    )


def _held_table(run: RunNumbers, logs: dict[int, pl.DataFrame]) -> TableBlock | None:
    """What S-DPO made of the sets that it wasn't trained on; None where none were held back."""
    rows: list[list[Cell]] = []
    for number, log in logs.items():
        courses = [(_points(log, name), unit) for name, (_, unit) in _HELD.items()]
        if not all(points for points, _ in courses):
            continue
        ends = [Num(points[place][1], unit=unit) for points, unit in courses for place in (0, -1)]
        count = run.notes(in_round(number, "align")).get("held")
        rows.append([str(number), Num(float(count), unit="count") if count else "–", *ends])
    if not rows:
        return None
    columns = [f"{measure}, {end}" for measure in ("loss", "margin", "accuracy") for end in ("start", "end")]
    return TableBlock(
        "Preference sets held back from the training (align.data.hold), before its first step and at its last "
        "validation. At the start no text is preferred: the loss is ln(1+K), the margin 0, and the accuracy that of "
        "rounding. The margin and the accuracy at the end are those on histories whose sets S-DPO hasn't seen.",
        ("round", "held sets", *columns),
        rows,
    )


def _points(log: pl.DataFrame, name: str) -> list[tuple[float, float]]:
    if name not in log.columns:
        return []
    return [(float(step), float(value)) for step, value in log.select("step", name).drop_nulls().iter_rows()]


def _last_steps(run: RunNumbers, rounds: Sequence[int]) -> list[Block]:
    rows: list[list[Cell]] = []
    for number in rounds:
        notes = run.notes(in_round(number, "align"))
        nums = [Num(float(notes.get(name, "nan")), unit=unit) for name, (_, unit) in _CURVES.items()]
        rows.append([str(number), *nums, Num(float(notes.get("optimizer_steps", "nan")), unit="count")])
    names = ", ".join(map(str, rounds))
    return [
        Missing(
            f"Curves of round {names}: no step was logged. `align.trainer.logger: false` does that, and a "
            "`log_every_n_steps` beyond the number of steps."
        ),
        TableBlock(
            "Values of the last optimizer step, on the train sets of its batch: one step is noisy.",
            ("round", *(title for title, _ in _CURVES.values()), "steps"),
            rows,
        ),
    ]
