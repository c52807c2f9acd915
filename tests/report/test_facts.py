"""The facts: numbers by hand, verdicts from intervals, ceilings, and what a run cut off has to say."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from made_run import USERS, MadeRun, made_config, metric_row
from reading import answer_of, missing, row, section, tables

from trackrec.metrics.intervals import Interval, metric_rows
from trackrec.metrics.scores import balanced_mean
from trackrec.report.numbers import RunNumbers
from trackrec.report.render.document import Badge, Figure, Num, Report, write_number
from trackrec.report.report import build_report
from trackrec.report.sections.arms import reading
from trackrec.report.sections.calibration import reliability_bins, wilson
from trackrec.report.sections.judgements import draw_rewards
from trackrec.report.sections.writing import Writing, distinct_interval, spans
from trackrec.storage.parts import read_table, write_part


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.73142, "score", ".7314"),
        (-0.25, "score", "−.2500"),
        (1.03119, "score", "1.0312"),
        (0.0021, "signed", "+.0021"),
        (-0.0021, "signed", "−.0021"),
        (0.1234, "share", "12.3 %"),
        (-0.01, "share", "−1.0 %"),
        (1234.56, "one", "1,234.6"),
        (6353, "count", "6,353"),
        (float("nan"), "score", "–"),
    ],
)
def test_numbers_as_a_person_reads_them(value: float, unit: Any, text: str) -> None:
    assert write_number(value, unit) == text


@pytest.mark.parametrize(
    ("low", "high", "name", "text"),
    [
        (0.001, 0.01, "auc", "better"),
        (-0.001, 0.01, "auc", "no evidence"),
        (-0.01, -0.001, "auc", "worse"),
        (0.0, 0.01, "auc", "no evidence"),
        (0.001, 0.01, "log_loss", "worse"),
        (-0.01, -0.001, "log_loss", "better"),
        (float("nan"), float("nan"), "auc", "no evidence"),
    ],
)
def test_a_difference_reads_as_its_interval_allows(low: float, high: float, name: str, text: str) -> None:
    difference = Num((low + high) / 2, low, high)
    assert reading(difference, 2, name).text == text
    assert reading(difference, 1, name).text == "users only"


@pytest.mark.parametrize(
    ("verdict", "answer"), [(1.0, "It helped"), (0.0, "No evidence that it helped"), (-1.0, "It hurt")]
)
def test_the_answer_is_the_verdict_of_the_metrics(verdict: float, answer: str, made_dir: Any, tmp_path: Path) -> None:
    """Whatever the intervals beside it say: there is one rule, and the table holds what it found."""
    run_dir, config = made_dir
    shutil.copytree(run_dir, tmp_path / "run")
    MadeRun(tmp_path / "run", config).test(verdict=verdict)
    block = answer_of(tmp_path / "run", config)
    assert block.answer.text == answer
    assert "minus another user's RecCoT" in block.grounds[1]
    assert any("G and V were trained once" in ground for ground in block.grounds)
    assert "test split, 48 rows" in block.grounds[0]
    assert block.grounds[-1] == "The test split was read twice in this run directory."


def test_one_training_seed_gives_no_answer(made_dir: Any, tmp_path: Path) -> None:
    """Even where an earlier version wrote a verdict."""
    run_dir, config = made_dir
    one = {**config, "ctr": {**config["ctr"], "seeds": [0]}}
    shutil.copytree(run_dir, tmp_path / "run")
    MadeRun(tmp_path / "run", one).test(verdict=1.0)
    block = answer_of(tmp_path / "run", one)
    assert block.answer == Badge("No verdict", "open")
    assert block.grounds[0].endswith("users only.")
    assert any(ground.startswith("A verdict needs two training seeds") for ground in block.grounds)
    compared, *_ = (table for table in tables(build_report(tmp_path / "run", one), "arms") if "paired" in table.caption)
    assert "over users only" in compared.caption
    assert {line[2].text for line in compared.rows} == {"users only"}


def test_without_a_placebo_there_is_no_answer(made_dir: Any, tmp_path: Path) -> None:
    run_dir, config = made_dir
    shutil.copytree(run_dir, tmp_path / "run")
    made = MadeRun(tmp_path / "run", config)
    path = tmp_path / "run" / "test"
    rows = read_table(path, "metrics").filter((pl.col("arm") != "shuffled") & (pl.col("name") != "verdict"))
    shutil.rmtree(path / "metrics")
    write_part(path, "metrics", rows)
    made.finish("test", ["ctr"], test_reads=1)
    block = answer_of(tmp_path / "run", config)
    assert block.answer == Badge("No verdict", "open")
    assert "There is no placebo arm to compare with: add shuffled to ctr.arms." in block.grounds


def test_rewards_and_their_change_by_hand(made_dir: Any, made_report: Report) -> None:
    """Round 1's change: the same V, the same rows, new against old texts; per class first."""
    run = RunNumbers(*made_dir)
    new, old = (run.answers(stage, "warmup/rec_tune") for stage in ("round-1/evaluate", "warmup/evaluate"))
    assert new is not None
    assert old is not None
    due = [balanced_mean(frame["p_true"], frame["label"]) for frame in (old, new)]
    (table,) = tables(made_report, "rounds")
    line = row(table, "1")
    assert line["reward before"].value == pytest.approx(due[0], abs=1e-6)
    assert line["reward after"].value == pytest.approx(due[1], abs=1e-6)
    assert line["change"].value == pytest.approx(due[1] - due[0], abs=1e-6)
    assert line["change"].low < line["change"].value < line["change"].high
    assert line["rows"].value == line["change"].n == 4 * USERS
    assert row(table, "0, start")["change"] == "–"
    assert 0.6 < line["V AUC"].value < 1


def test_answers_with_another_users_text_are_read_on_request_only(made_dir: Any) -> None:
    """The V of the warm-up scored its 120 rows twice; with another user's text it always says .5."""
    run = RunNumbers(*made_dir)
    own, other, given = (
        run.answers("warmup/evaluate", "warmup/rec_tune", source) for source in (None, "shuffled", "g")
    )
    assert own is not None
    assert other is not None
    assert own.equals(given)
    assert own["sample_id"].to_list() == other["sample_id"].to_list()
    assert len(own) == own["sample_id"].n_unique() == 4 * USERS
    assert set(other["p_yes"]) == {0.5}
    assert run.answers("warmup/evaluate", "warmup/rec_tune", "none") is None


def test_a_draws_reward_by_hand(made_dir: Any) -> None:
    run = RunNumbers(*made_dir)
    rewards = draw_rewards(run, 1)
    assert rewards is not None
    assert len(rewards) == 3 * USERS
    scores = run.table("round-1/score", "scores")
    assert scores is not None
    own = scores.filter((pl.col("history_id") == "h4") & (pl.col("draw") == 2)).join(run.samples, on="sample_id")
    found = rewards.filter((pl.col("history_id") == "h4") & (pl.col("draw") == 2))["reward"].item()
    assert found == pytest.approx(balanced_mean(own["p_true"], own["label"]), abs=1e-6)


def test_what_nobody_wrote_is_not_measured_as_writing(tmp_path: Path) -> None:
    """The fixed text about ten empty histories is in no average and among no examples; their number is told."""
    config, empty = made_config(), {f"h{u}" for u in range(10)}
    MadeRun(tmp_path, config, empty=empty).all()
    writing = Writing(RunNumbers(tmp_path, config))
    assert sorted(writing.common) == sorted(f"h{u}" for u in range(10, USERS))
    assert not empty & set(writing.examples)
    made = build_report(tmp_path, config)
    (counts,) = (table for table in tables(made, "data") if "The data after each filter" in table.caption)
    assert ("samples of users without a history yet", "10") in [(row[0], row[1].text) for row in counts.rows]


def test_curves_start_and_end_by_hand(made_report: Report) -> None:
    """Six steps: the first and the last fifth are one step each."""
    table = tables(made_report, "alignment")[1]
    cells = {(line[0], line[1]): line[2:] for line in table.rows}
    first, last, steps = cells["2", "Margin"]
    assert (first.value, last.value, steps.value) == (0.0, pytest.approx(0.5), 6)
    assert [num.text for num in cells["1", "Accuracy"][:2]] == ["50.0 %", "75.0 %"]


def test_the_held_out_sets_stand_beside_the_training(made_dir: Any, tmp_path: Path) -> None:
    """Validated before the first step, after three and after six, in round 2 only."""
    run_dir, config = made_dir
    shutil.copytree(run_dir, tmp_path / "run")
    path = tmp_path / "run/round-2/align/logs/metrics.csv"
    held = pl.DataFrame(
        {"step": [0, 3, 6], "valid/loss": [1.4, 1.2, 1.3], "valid/margin": [0.0, 0.3, 0.25]}
        | {"valid/accuracy": [0.0, 0.75, 0.625]}
    )
    pl.read_csv(path).join(held, on="step", how="full", coalesce=True).sort("step").write_csv(path)
    report = build_report(tmp_path / "run", config)
    (table,) = (table for table in tables(report, "alignment") if "held back" in table.caption)
    (line,) = table.rows
    assert line[:2] == ["2", "–"]
    assert [num.value for num in line[2:]] == [1.4, 1.3, 0.0, 0.25, 0.0, 0.625]
    (figure,) = (block for block in section(report, "alignment").blocks if isinstance(block, Figure))
    shown = "".join(map(str, figure.panels))
    assert shown.index("Held-out loss") < shown.index("Margin") < shown.index("Held-out margin")
    cells = {(cells[0], cells[1]): cells[2:] for cells in figure.numbers.rows}
    assert cells["2", "Loss"][2].value == 6  # rows of a validation alone are no steps


def test_the_candidates_of_a_round_and_the_one_that_was_taken(tmp_path: Path) -> None:
    config = made_config()
    config["loop"] |= {"candidates": 2, "accept": "better"}
    made = MadeRun(tmp_path, config)
    made.all()
    stage, key = "round-1/select", {"round": 1, "split": "valid"}
    rewards = {"start": 0.5, "candidate-1": 0.55, "candidate-2": 0.52}
    rows = []
    for arm, reward in rewards.items():
        found = {"reward": Interval(reward, reward - 0.1, reward + 0.1, 40)}
        if arm != "start":
            found["reward_minus_start"] = Interval(reward - 0.5, -0.01, 0.1, 40)
        rows += metric_rows(found, stage=stage, arm=arm, **key)
    write_part(tmp_path / stage, "metrics", rows)
    made.finish(stage, ["round-1/align"], taken="candidate-1", reason="it is the best", rewards=rewards)
    made.finish("round-2/select", ["round-2/align"], taken="start", reason="not aligned")
    (table,) = (table for table in tables(build_report(tmp_path, config), "alignment") if "candidates" in table.caption)
    cells = [[cell if isinstance(cell, str) else cell.value for cell in line] for line in table.rows]
    assert cells == [
        ["1", "start", 0.5, "–", ""],
        ["1", "candidate-1", 0.55, pytest.approx(0.05), "taken: it is the best"],
        ["1", "candidate-2", 0.52, pytest.approx(0.02), ""],
        ["2", "start", "–", "–", "taken: not aligned"],
    ]


def test_without_logs_the_last_step_is_shown_and_the_gap_named(made_dir: Any, tmp_path: Path) -> None:
    run_dir, config = made_dir
    shutil.copytree(run_dir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/round-2/align/logs")
    report = build_report(tmp_path / "run", config)
    assert "Curves of round 2: no step was logged" in missing(report)
    last = tables(report, "alignment")[-1]
    assert [line[0] for line in last.rows] == ["2"]
    assert row(last, "2")["Loss"].value == 0.5


# -- the ceiling of a simulated world -----------------------------------------------------------------------------


def test_a_ceiling_is_shown_where_a_stage_measured_one(made_dir: Any, tmp_path: Path) -> None:
    run_dir, config = made_dir
    shutil.copytree(run_dir, tmp_path / "run")
    made = MadeRun(tmp_path / "run", config)
    rows = [
        metric_row("data", "valid", "bayes", "bayes_auc", 0.91, 0.9, 0.92),
        metric_row("data", "test", "bayes", "bayes_auc", 0.93, None, None),
        metric_row("data", "test", "bayes", "bayes_acc", 0.87, None, None),
    ]
    write_part(tmp_path / "run" / "data", "metrics", rows)
    made.finish("data", [], **RunNumbers(run_dir, config).notes("data"))
    for stage in ("ctr", "test"):  # the ratings of the later stages are others now: made again
        made.ctr() if stage == "ctr" else made.test()
    report = build_report(tmp_path / "run", config)
    line = row(next(table for table in tables(report, "arms") if table.columns[0] == "arm"), "the best possible model")
    assert (line["AUC"].text, line["ACC"].text, line["LogLoss"]) == (".9300", ".8700", "–")
    assert RunNumbers(tmp_path / "run", config).ceiling("valid", "auc") == Num(0.91, 0.9, 0.92, 48)
    assert RunNumbers(run_dir, config).ceiling("valid", "auc") is None


def test_the_ceiling_is_drawn_beside_v(tmp_path: Path) -> None:
    config = made_config(rounds=1)
    made = MadeRun(tmp_path, config)
    made.data()
    rows = [metric_row("data", "valid", "bayes", "bayes_auc", 0.91, 0.9, 0.92)]
    rows += [metric_row("data", "valid", "told", f"told_{name}", 0.79, None, None) for name in ("auc", "acc")]
    write_part(tmp_path / "data", "metrics", rows)
    made.finish("data", [], threshold=3.0)
    made.texts("teacher", {"h0": "a"}, 0)
    made.texts("warmup/greedy", {"h0": "a"}, 0)
    made.evaluate(0)
    figure = next(
        block for block in section(build_report(tmp_path, config), "rounds").blocks if isinstance(block, Figure)
    )
    assert "ceiling: .9100" in figure.panels[0]
    assert 'class="band"' in figure.panels[0]
    assert "best reader: .7900" in figure.panels[0]
    assert "ceiling" not in figure.panels[1]
    assert "best reader: .7900" in figure.panels[1]
    assert "best reader" not in figure.panels[2]


# -- calibration --------------------------------------------------------------------------------------------------


def test_bins_by_hand() -> None:
    frame = pl.DataFrame({"p_yes": [0.05, 0.07, 0.61, 1.0], "label": [0, 1, 1, 1]})
    bins = reliability_bins(frame)
    assert [(round(one.confidence, 2), one.frequency.value, one.frequency.n) for one in bins] == [
        (0.06, 0.5, 2),
        (0.61, 1.0, 1),
        (1.0, 1.0, 1),
    ]
    assert [round(end, 3) for end in (wilson(5, 10).low, wilson(5, 10).high)] == [0.237, 0.763]  # Wilson's table
    assert wilson(0, 4).low == 0
    assert wilson(4, 4).high == pytest.approx(1)


# -- texts --------------------------------------------------------------------------------------------------------


def test_distinct_n_with_a_jackknife_by_hand() -> None:
    """Pairs: ab, bc | ab | de. 3 of 4 are distinct; without text 1, 2, 3: 2/2, 3/3, 2/3."""
    num = distinct_interval(["a b c", "a b", "d e"])
    left = np.array([1.0, 1.0, 2 / 3])
    error = np.sqrt(2 / 3 * ((left - left.mean()) ** 2).sum())
    assert num.value == 0.75
    assert (num.low, num.high) == (
        pytest.approx(max(0, 0.75 - 1.96 * error)),
        pytest.approx(min(1, 0.75 + 1.96 * error)),
    )
    assert distinct_interval(["a b"]).interval == ""
    assert distinct_interval([]).text == "–"


def test_cut_texts_and_unsupported_names_are_counted(made_dir: Any, tmp_path: Path) -> None:
    """h0 read Night Garden, EVIL and Iron Coast (War, Comedy, Drama): Drama is there, Blue Harbour is not."""
    run_dir, config = made_dir
    shutil.copytree(run_dir, tmp_path / "run")
    made = MadeRun(tmp_path / "run", config)
    texts = {"h0": "Likes drama, Blue Harbour and Iron Coast.", "h1": "Says little."}
    made.texts("round-2/greedy", texts, 2, "round-2/align", cut=["h1"])
    writing = Writing(RunNumbers(tmp_path / "run", config))
    assert sorted(writing.common) == ["h0", "h1"]
    table = tables(build_report(tmp_path / "run", config), "writing")[0]
    line = row(table, "round 2")
    assert (line["cut"].text, line["names a text"].text, line["unsupported"].text) == ("50.0 %", "1.5", "33.3 %")
    assert line["words"].value == 4.5
    assert line["texts"].value == 2


def test_spans_give_the_text_back(made_dir: Any) -> None:
    writing = Writing(RunNumbers(*made_dir))
    text = writing.texts["1"]["h3"].text
    pieces = spans(text, writing.checker.unsupported(text, writing.shown("h3")))
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.text for piece in pieces if piece.marked] == ["script>alert('x')</script> & Sons | *Two"]


def test_examples_are_those_with_most_texts(made_dir: Any) -> None:
    writing = Writing(RunNumbers(*made_dir))
    writing.texts["teacher"] = {"h7": writing.texts["1"]["h7"]}
    assert writing.examples[0] == "h7"
    assert len(set(writing.examples)) == 20
    assert writing.examples[1:] != sorted(writing.examples[1:])
