"""Whether the texts helped: arms, their differences with intervals, and the verdicts that follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from trackrec.ctr.arms.arm import PLACEBOS, VALIDATORS
from trackrec.ctr.arms.verdict import HELPS, HURTS, NO_EVIDENCE
from trackrec.metrics.intervals import LEAST_USERS
from trackrec.metrics.scores import accuracy, auc, log_loss
from trackrec.recipe.names import TEST, in_round, without_text
from trackrec.report.numbers import RunNumbers, intervals_note
from trackrec.report.render.arm_names import arm_name, arm_order, text_name, validator_place
from trackrec.report.render.document import (
    Badge,
    Block,
    Cell,
    Figure,
    Folded,
    Missing,
    Num,
    Section,
    TableBlock,
    Verdict,
    sentence,
)
from trackrec.report.render.figures import forest
from trackrec.report.sections.judgements import paired_difference

MEASURES = {"auc": "AUC", "acc": "ACC", "log_loss": "LogLoss"}
_COLUMNS = {**MEASURES, "uauc": "UAUC"}
_LOWER_IS_BETTER = {"log_loss"}
_SLICES = {
    "cold_items": "items with at most 5 train ratings",
    "warm_items": "items with more",
    "short_history": "histories of at most 15 items",
    "long_history": "longer histories",
    **{f"activity_{fifth}": f"users, fifth {fifth} by activity" for fifth in range(1, 6)},
    "seen_users": "users of the loop",
    "unseen_users": "users that the loop has not seen",
    "cold_users": "users without a history",
}
_SPLITS = {"test": "test", "ctr": "valid"}
_ROWS = {"test": "test", "valid": "validation"}
_READ = {1: "once", 2: "twice"}
_ANSWERS = {
    HELPS: Badge("It helped", "good"),
    NO_EVIDENCE: Badge("No evidence that it helped", "open"),
    HURTS: Badge("It hurt", "bad"),
}


class Difference(NamedTuple):
    """A comparison: its name, its measure, the difference, and the smallest true difference that would be detected."""

    name: str
    measure: str
    num: Num
    seen: Num | None = None


def reading(difference: Num, seeds: int, name: str = "auc") -> Badge:
    """``better`` if the interval lies on the good side of zero, ``worse`` if on the bad side, else ``no evidence``.

    One training gives no such answer: its interval is over users only.
    """
    if seeds < 2:
        return Badge("users only", "open")
    low, high = (
        (difference.low, difference.high) if name not in _LOWER_IS_BETTER else (-difference.high, -difference.low)
    )
    if low > 0:
        return Badge("better", "good")
    return Badge("worse", "bad") if high < 0 else Badge("no evidence", "open")


def arms_section(run: RunNumbers, net: str) -> Section:
    """Verdict, differences and arms: on the test split if it was read, with validation below it; else on validation."""
    stages = [stage for stage in _SPLITS if run.arms(stage, _SPLITS[stage])]
    blocks: list[Block] = []
    if not stages:
        blocks.append(Missing("No CTR net was trained yet: run `trackrec fit` to the end of stage ctr."))
    for stage in stages[:1]:
        blocks.extend(_stage_blocks(run, stage, net, with_verdict=True))
    splits = [_SPLITS[stage] for stage in stages] or ["valid"]
    blocks.extend(_validator_blocks(run, splits[0]))
    for stage, split in zip(stages[1:], splits[1:], strict=True):
        more = [*_stage_blocks(run, stage, net, with_verdict=False), *_validator_blocks(run, split)]
        blocks.append(Folded(f"The same on {_ROWS[split]} rows", more))
    return Section("arms", "Did the texts help?", blocks)


def _stage_blocks(run: RunNumbers, stage: str, net: str, with_verdict: bool) -> list[Block]:
    split = _SPLITS[stage]
    differences = _differences(run, stage)
    blocks: list[Block] = []
    if with_verdict and (answer := _verdict(run, stage, net)):
        blocks.append(answer)
    if differences:
        blocks.append(_forest(differences, split, net, _seeds(run)))
    blocks.append(_arms_table(run, stage, net))
    if slices := _slices_table(run, stage, net):
        blocks.append(Folded("By kind of item, history and user", [slices]))
    return blocks


def _differences(run: RunNumbers, stage: str) -> list[Difference]:
    """Every arm with text minus every arm it was compared with; not the best placebo, which is one of these."""
    split = _SPLITS[stage]
    differences = []
    for arm in sorted(run.arms(stage, split), key=lambda name: (name != "reccot", name)):
        for name in run.names(stage, split, arm):
            measure, minus, other = name.partition("_minus_")
            if not minus or measure not in MEASURES or other.endswith("_mde") or other == "best_placebo":
                continue
            if arm != "none" and (arm == "reccot" or other == "none"):
                num = run.measured(stage, split, arm, name, unit="signed")
                assert num is not None
                seen = run.measured(stage, split, arm, f"{name}_mde")
                title = f"{sentence(text_name(arm))} minus {text_name(other)}"
                differences.append(Difference(title, measure, num, seen))
    return differences


def _seeds(run: RunNumbers) -> int:
    return len(run.config["ctr"]["seeds"])


def _forest(differences: Sequence[Difference], split: str, net: str, seeds: int) -> Figure:
    panels = [
        forest(
            f"{net}: difference in {MEASURES[measure]}",
            [(difference.name, difference.num) for difference in differences if difference.measure == measure],
            measure in _LOWER_IS_BETTER,
        )
        for measure in MEASURES
        if any(difference.measure == measure for difference in differences)
    ]
    return Figure(
        "An interval that contains zero is no evidence either way. If the text says something about its user, AUC and "
        "ACC rise (right of zero) and LogLoss falls (left), against no text as well as against another user's text.",
        panels,
        _difference_table(
            differences, f"Differences between arms on {_ROWS[split]} rows, paired. {intervals_note(seeds)}", seeds
        ),
        folded=True,
    )


def _difference_table(differences: Sequence[Difference], caption: str, seeds: int) -> TableBlock:
    rows: list[list[Cell]] = [
        [f"{name}, {MEASURES[measure]}", num, reading(num, seeds, measure), seen or "–", Num(num.n or 0, unit="count")]
        for name, measure, num, seen in differences
    ]
    return TableBlock(caption, ("comparison", "difference", "reads as", "smallest that would show", "rows"), rows)


def _slices_table(run: RunNumbers, stage: str, net: str) -> TableBlock | None:
    """AUC without and with the RecCoT on parts of the rows, and how the differences read."""
    split = _SPLITS[stage]
    rows: list[list[Cell]] = []
    parts = run.slices(stage, split, "reccot")
    # A run of another version may have slices that this one doesn't know.
    for part in [*(name for name in _SLICES if name in parts), *sorted(set(parts) - set(_SLICES))]:
        plain = run.measured(stage, split, "none", "auc", part=part)
        with_text = run.measured(stage, split, "reccot", "auc", part=part)
        nums = [
            run.measured(stage, split, "reccot", f"auc_minus_{other}", unit="signed", part=part)
            for other in ("none", "best_placebo")
        ]
        if plain is None or with_text is None:
            continue
        comparisons: list[Cell] = []
        for num in nums:
            comparisons += ["–", "–"] if num is None else [num, reading(num, _seeds(run))]
        rows.append([_SLICES.get(part, part), plain, with_text, *comparisons, Num(with_text.n or 0, unit="count")])
    columns = ("rows of", f"{net}, no text", f"{net} + RecCoT", "minus no text", "reads as", "minus the best placebo")
    caption = (
        f"AUC on parts of the {_ROWS[split]} rows; parts with fewer than {LEAST_USERS} users are left out. "
        f"{intervals_note(_seeds(run))} One interval in twenty excludes zero by chance alone."
    )
    return TableBlock(caption, (*columns, "reads as", "rows"), rows) if rows else None


def _verdict(run: RunNumbers, stage: str, net: str) -> Verdict | None:
    """The verdict of the metrics table, and the two differences that it rests on."""
    split, seeds = _SPLITS[stage], _seeds(run)
    placebo = next((arm for arm in PLACEBOS if run.measured(stage, split, arm, "chosen_placebo")), None)
    nums = {
        other: run.measured(stage, split, "reccot", f"auc_minus_{other}", unit="signed")
        for other in ("none", placebo)
        if other is not None
    }
    if nums["none"] is None:
        return None
    found = run.measured(stage, split, "reccot", "verdict")
    # Metrics of before one seed gave no verdict may hold one.
    answer = _ANSWERS[found.value] if found is not None and seeds > 1 else Badge("No verdict", "open")
    grounds = [
        f"{net} with the RecCoT minus {text_name(other)}: AUC {num.text} {num.interval}, {split} split, "
        f"{num.n:,} rows: {reading(num, seeds).text}."
        for other, num in nums.items()
        if num is not None
    ]
    grounds.append(intervals_note(seeds))
    if seeds == 1:
        grounds.append("A verdict needs two training seeds or more: give ctr.seeds three.")
    if placebo is None:
        grounds.append("There is no placebo arm to compare with: add shuffled to ctr.arms.")
    grounds.append(
        "G and V were trained once, for all training seeds of the nets: the chance of their training is not in the "
        "intervals. `trackrec sweep --seeds 0,1,2` repeats whole runs."
    )
    if split == "valid":
        grounds.append(
            "These are validation rows, on which every choice was made: `trackrec test` reads the test split."
        )
    else:
        reads = int(run.notes("test").get("test_reads", 1))
        grounds.append(f"The test split was read {_READ.get(reads, f'{reads} times')} in this run directory.")
    return Verdict(f"Does {net} recommend better with G's texts?", answer, grounds)


def _arms_table(run: RunNumbers, stage: str, net: str) -> TableBlock:
    split = _SPLITS[stage]
    arms = sorted((arm for arm in run.arms(stage, split) if arm not in VALIDATORS), key=arm_order)
    rows: list[list[Cell]] = []
    for arm in arms:
        nums = [run.measured(stage, split, arm, name) for name in _COLUMNS]
        if nums[0] is not None:
            rows.append([arm_name(arm, net), *(num or "–" for num in nums), Num(nums[0].n or 0, unit="count")])
    if ceiling := run.ceiling(split, "auc"):
        others = [run.ceiling(split, name) or "–" for name in list(_COLUMNS)[1:]]
        rows.append(["the best possible model", ceiling, *others, Num(ceiling.n or 0, unit="count")])
    one_class = run.measured(stage, split, "reccot", "users_one_class")
    caption = f"Arms on {_ROWS[split]} rows. {intervals_note(_seeds(run))}"
    if one_class is not None:
        caption += f" UAUC leaves out {one_class.value:,.0f} of {one_class.n:,} users, whose rows have one class."
    return TableBlock(caption, ("arm", *_COLUMNS.values(), "rows"), rows)


# -- V as the recommender -----------------------------------------------------------------------------------------


def _validator_blocks(run: RunNumbers, split: str) -> list[Block]:
    """The validator's (V's) metrics with and without RecCoT, and their paired difference."""
    blocks: list[Block] = []
    keys = {
        "test": {arm: ("test", -1, arm) for arm in VALIDATORS},
        "valid": {arm: validator_place(arm, run.rounds) for arm in VALIDATORS},
    }
    rows: list[list[Cell]] = []
    for arm, (stage, round_, name) in keys[split].items():
        nums = [run.measured(stage, split, name, measure, round_) for measure in _COLUMNS]
        if nums[0] is not None:
            rows.append([arm_name(arm, ""), *(num or "–" for num in nums), Num(nums[0].n or 0, unit="count")])
    if rows:
        caption = f"V as the recommender, on {_ROWS[split]} rows. Intervals are 95 %, over users."
        blocks.append(TableBlock(caption, ("V", *_COLUMNS.values(), "rows"), rows))
    if differences := _validator_differences(run, split, in_round(run.rounds, "rec_tune")):
        caption = (
            f"What the RecCoT changes for V, on the same {_ROWS[split]} rows. Intervals are 95 %, over users only: V "
            "was trained once with the RecCoT and once without."
        )
        blocks.append(_difference_table(differences, caption, seeds=1))
    return blocks


def _validator_differences(run: RunNumbers, split: str, validator: str) -> list[Difference]:
    evaluated = validator.replace("rec_tune", "evaluate")
    stages = (TEST, TEST) if split == TEST else (evaluated, without_text("evaluate"))
    with_text = run.answers(stages[0], validator)
    without = run.answers(stages[1], without_text("rec_tune"))
    if with_text is None or without is None:
        return []
    metrics = {"auc": auc, "acc": accuracy, "log_loss": log_loss}
    nums = {name: paired_difference(metric, with_text, without, "p_yes") for name, metric in metrics.items()}
    return [Difference("V with RecCoT minus V without", name, num) for name, num in nums.items() if num is not None]
