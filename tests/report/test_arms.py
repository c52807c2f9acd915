"""Differences between arms: each once, in a colour that knows which way is better; parts of the rows beside them."""

from __future__ import annotations

import shutil
from pathlib import Path

from made_run import MadeRun, made_config, metric_row
from reading import section, tables

from trackrec.ctr.arms.arm import ARMS, CLASSICS, MEANS, VALIDATORS
from trackrec.report.render.arm_names import arm_name, arm_order, text_name
from trackrec.report.render.document import Figure, Num
from trackrec.report.render.figures import forest
from trackrec.report.report import build_report


def of_slice(part: str, arm: str, name: str, value: float, half: float = 0.02) -> dict[str, object]:
    return {**metric_row("ctr", "valid", arm, name, value, value - half, value + half), "slice": part}


def report(tmp_path: Path, *extra: dict[str, object]):
    config = made_config()
    run = MadeRun(tmp_path, config)
    run.all()
    shutil.rmtree(tmp_path / "test")
    run.ctr(extra=extra)
    return build_report(tmp_path, config)


def test_slices_and_detectable_effects_are_no_differences_of_their_own(tmp_path: Path) -> None:
    plain = report(tmp_path / "plain")
    more = [
        metric_row("ctr", "valid", "reccot", "auc_minus_none_mde", 0.011, None, None),
        metric_row("ctr", "valid", "reccot", "auc_minus_best_placebo", 0.05, 0.03, 0.07),
        *(of_slice("cold_items", arm, "auc", 0.6) for arm in ("none", "reccot")),
        of_slice("cold_items", "reccot", "auc_minus_none", -0.2),
        of_slice("cold_items", "reccot", "auc_minus_best_placebo", 0.0),
    ]
    full = report(tmp_path / "full", *more)
    figures = [
        next(block for block in section(one, "arms").blocks if isinstance(block, Figure)) for one in (plain, full)
    ]
    assert figures[0].panels == figures[1].panels
    compared, *_ = (table for table in tables(full, "arms") if "Differences between arms" in table.caption)
    assert [row[3].text for row in compared.rows if row[0] == "RecCoT minus no text, AUC"] == [".0110"]
    (parts,) = (table for table in tables(full, "arms") if "AUC on parts of the validation rows" in table.caption)
    ((name, *cells),) = parts.rows
    assert name == "items with at most 5 train ratings"
    assert [cell.text for cell in cells] == [".6000", ".6000", "−.2000", "worse", "+.0000", "no evidence", "48"]


def test_slices_of_another_version_stand_at_the_end_under_their_own_names(tmp_path: Path) -> None:
    names = ["night_owls", "cold_users", "early_birds", "cold_items"]
    extra = [of_slice(name, arm, "auc", 0.6) for name in names for arm in ("none", "reccot")]
    made = report(tmp_path, *extra)
    (parts,) = (table for table in tables(made, "arms") if "AUC on parts of the validation rows" in table.caption)
    assert [row[0] for row in parts.rows] == [
        "items with at most 5 train ratings",
        "users without a history",
        "early_birds",
        "night_owls",
    ]


def test_a_loss_that_rises_is_bad() -> None:
    rises = [("a", Num(0.2, 0.1, 0.3))]
    assert "bad" in forest("LogLoss", rises, lower_is_better=True)
    assert "bad" not in forest("AUC", rises)


def test_every_arm_has_a_name_and_a_place():
    every = [*ARMS, *VALIDATORS, *MEANS, *(f"{model}+{text}" for model in CLASSICS for text in ARMS[1:])]
    assert len({arm_name(arm, "DIN") for arm in every}) == len({arm_order(arm) for arm in every}) == len(every)
    assert arm_name("facts", "DIN") == "DIN + counts and kinds"
    arms = ["validator/reccot", "lightgbm", "logistic+random", "logistic", "reccot+prompt", "random", "none"]
    assert [arm_name(arm, "DIN") for arm in sorted([*arms, "item_user"], key=arm_order)] == [
        "item mean + user mean",
        "DIN, no text",
        "DIN + random vectors",
        "DIN + RecCoT + the history itself",
        "logistic regression, no text",
        "logistic regression + random vectors",
        "LightGBM, no text",
        "V tuned, RecCoT",
    ]
    assert text_name("reccot@0.25") == "RecCoT for 25% of the users"
    without = ["none/no_stats", "reccot/no_stats", "logistic/no_stats", "reccot", "none"]
    assert [arm_name(arm, "DIN") for arm in sorted(without, key=arm_order)] == [
        "DIN, no text",
        "DIN, no text, no user statistics",
        "DIN + RecCoT",
        "DIN + RecCoT, no user statistics",
        "logistic regression, no text, no user statistics",
    ]
