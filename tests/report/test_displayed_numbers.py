"""Every number that the terminal and the page show is the one that was measured, of the right stage, arm and name.

Each metric has a value of its own here, so that a cell that shows another one is seen.
"""

from __future__ import annotations

import io
from typing import Any

import pytest
from made_run import USERS
from reading import tables
from rich.console import Console
from tiny import frame

from trackrec.report.render.document import Report
from trackrec.report.render.terminal import arms_table, coverage_table, differences, print_report, rounds_table


def metric(stage: str, round_: int, split: str, arm: str, name: str, value: float, n: int = 48) -> dict[str, Any]:
    key = {"stage": stage, "round": round_, "split": split, "arm": arm, "slice": "all", "seed": -1, "name": name}
    return {**key, "value": value, "ci_low": value - 0.01, "ci_high": value + 0.01, "n": n}


def cells(table: Any) -> list[list[str]]:
    return [list(line) for line in zip(*(column.cells for column in table.columns), strict=True)]


def test_the_table_of_rounds() -> None:
    """Before the rounds one V scores; in round 1 the V that scored the draws, and the one that was tuned then."""
    rows = []
    for number, stage in enumerate(("warmup/evaluate", "round-1/evaluate")):
        base = 0.1 + 0.4 * number
        measured = [(arm, name) for arm in ("scorer", "tuned") for name in ("reward", "auc", "acc")]
        for offset, (arm, name) in enumerate(measured):
            if arm == "scorer" or number:
                rows.append(metric(stage, number, "valid", arm, name, base + 0.01 * offset))
        texts = {"distinct_2": 0.90 + number / 100, "mean_words": 20.0 + number, "cut_share": 0.30 + number / 100}
        rows += [metric(stage, number, "all", "texts", name, value) for name, value in texts.items()]
    assert cells(rounds_table(frame("metrics", rows), 1)) == [
        ["0 (start)", "-", ".1000 [.0900, .1100]", ".1100 [.1000, .1200]", ".1200", ".9000", "20.0", ".3000"],
        ["1", ".1000", ".5000 [.4900, .5100]", ".5400 [.5300, .5500]", ".5500", ".9100", "21.0", ".3100"],
    ]


@pytest.mark.parametrize("split", ["valid", "test"])
def test_the_table_of_arms(split: str) -> None:
    stage = "test" if split == "test" else "ctr"
    names = ("auc", "acc", "log_loss", "uauc")
    arms = ("none", "reccot", "logistic+shuffled", "item_mean")
    rows = [
        metric(stage, -1, split, arm, name, 0.1 * (1 + place) + 0.01 * index, 100 + place)
        for place, arm in enumerate(arms)
        for index, name in enumerate(names)
    ]
    rows += [metric("ctr" if split == "test" else "test", -1, "other", "none", name, 0.99) for name in names]
    places = {
        "valid": [("plain/evaluate", -1, "untuned"), ("plain/evaluate", -1, "plain"), ("round-2/evaluate", 2, "tuned")],
        "test": [("test", -1, f"validator/{arm}") for arm in ("untuned", "plain", "reccot")],
    }
    for place, (own, round_, arm) in enumerate(places[split]):
        rows += [metric(own, round_, split, arm, name, 0.5 + 0.1 * place + 0.01 * i) for i, name in enumerate(names)]
    rows.append(metric("round-2/evaluate", 2, "valid", "scorer", "auc", 0.98))

    def line(name: str, base: float, n: int) -> list[str]:
        auc, *rest = (base + 0.01 * index for index in range(4))
        shown = [f"{value:.4f}".lstrip("0") for value in (auc, auc - 0.01, auc + 0.01, *rest)]
        return [name, f"{shown[0]} [{shown[1]}, {shown[2]}]", *shown[3:], str(n)]

    assert cells(arms_table(frame("metrics", rows), split, "DIN", 2)) == [
        line("item mean", 0.4, 103),
        line("DIN, no text", 0.1, 100),
        line("DIN + RecCoT", 0.2, 101),
        line("logistic regression + another user's RecCoT", 0.3, 102),
        line("V untuned, no RecCoT", 0.5, 48),
        line("V tuned, no RecCoT", 0.6, 48),
        line("V tuned, RecCoT", 0.7, 48),
    ]


def test_the_lines_of_differences() -> None:
    rows = [
        metric("ctr", -1, "valid", "reccot", "auc_minus_none", 0.0312),
        metric("ctr", -1, "valid", "reccot", "auc_minus_shuffled", -0.0145),
        metric("ctr", -1, "valid", "reccot", "acc_minus_none", 0.5),
        metric("ctr", -1, "valid", "shuffled", "auc_minus_none", 0.6),
        metric("ctr", -1, "valid", "reccot", "users_one_class", 3.0, 25),
    ]
    assert differences(frame("metrics", rows), "valid", "DIN") == [
        "DIN + RecCoT minus no text: AUC .0312 [.0212, .0412] (valid, paired)",
        "DIN + RecCoT minus another user's RecCoT: AUC -.0145 [-.0245, -.0045] (valid, paired)",
        "UAUC leaves out 3 of 25 users, whose rows have one class.",
    ]


def test_the_table_of_coverage() -> None:
    arms = {"none": 0.1, "reccot@0.25": 0.2, "reccot@0.5": 0.3, "reccot": 0.4, "shuffled": 0.9}
    rows = [metric("ctr", -1, "valid", arm, "auc", value, 7) for arm, value in arms.items()]
    rows += [
        metric("ctr", -1, "valid", arm, "auc_minus_none", value / 10) for arm, value in arms.items() if value > 0.1
    ]
    table = coverage_table(frame("metrics", rows), "valid", "DIN")
    assert [[line[0], line[1][:5], line[2][:5], line[3]] for line in cells(table)] == [
        ["0%", ".1000", "-", "7"],
        ["25%", ".2000", ".0200", "7"],
        ["50%", ".3000", ".0300", "7"],
        ["100%", ".4000", ".0400", "7"],
    ]


def test_the_counts_of_the_page(made_report: Report) -> None:
    """What the made run notes: three draws for each of 30 histories, each scored on its four train rows, and so on."""
    (table,) = (table for table in tables(made_report, "run") if table.columns == ("stage", "what", "count"))
    assert {(stage, what): count.value for stage, what, count in table.rows} == {
        ("distill", "texts that G was distilled on"): USERS,
        ("warmup/rec_tune", "rows of the warm-up of V"): 40,
        ("round-1/sample", "histories in a round"): USERS,
        ("round-1/sample", "draws in a round"): 3 * USERS,
        ("round-1/score", "scores by V in a round"): 3 * 4 * USERS,
        ("round-2/rec_tune", "rows that tuned V in the last round"): 40,
        ("round-2/evaluate", "validation rows of V"): 48,
        ("round-2/evaluate", "histories of these"): USERS,
        ("texts", "further histories that got a final text"): USERS,
        ("ctr", "train rows of the CTR nets"): 300,
        ("ctr", "rows left out: no text about their history"): 4,
        ("test", "test rows of V"): 48,
    }


@pytest.mark.parametrize(
    ("seeds", "note"), [(1, "over users only: one training seed"), (3, "users and 3 training seeds")]
)
def test_the_terminal_says_what_the_intervals_cover(seeds: int, note: str) -> None:
    rows = [metric("ctr", -1, "valid", arm, "auc", 0.5) for arm in ("none", "reccot")]
    rows.append(metric("ctr", -1, "valid", "reccot", "auc_minus_none", 0.1))
    shown = io.StringIO()
    facts = {"rounds": 1, "split": "valid", "net": "DIN", "seeds": seeds}
    print_report(frame("metrics", rows), facts, Console(file=shown, width=150))
    assert note in shown.getvalue()
