"""The loop with a V that reads one title, and all that it is compared with, on the real command line."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from trackrec.cli.app import run_cli
from trackrec.metrics.intervals import paired_bootstrap
from trackrec.metrics.scores import auc
from trackrec.recipe.names import COMPARISONS, in_comparison
from trackrec.report.numbers import RunNumbers
from trackrec.report.render.document import Num, TableBlock
from trackrec.report.sections.reading import reading_blocks

pytestmark = [pytest.mark.recipe, pytest.mark.slow]
ROWS = {
    "untuned V, no text": ("plain", "base", "none"),
    "tuned V, no text": ("plain", "plain/rec_tune", "none"),
    "another user's RecCoT": ("round-1", "round-1/rec_tune", "shuffled"),
    "same tokens: facts": ("v-facts", "v-facts/rec_tune", "facts"),
    "same tokens: titles": ("v-titles", "v-titles/rec_tune", "titles"),
    "the teacher's text": ("v-teacher", "v-teacher/rec_tune", "teacher"),
    "the untuned model's text": ("v-untuned", "v-untuned/rec_tune", "untuned"),
    "RecCoT after the loop": ("round-1", "round-1/rec_tune", ""),
    "the whole history": ("v-whole", "v-whole/rec_tune", "whole"),
}


def call(*args: str) -> str:
    before, sys.argv = sys.argv, ["trackrec"]
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            run_cli(list(args))
    finally:
        sys.argv = before
    return out.getvalue()


@pytest.fixture(scope="module")
def compared(config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The configuration, and what ``fit`` and ``test`` printed."""
    folder = tmp_path_factory.mktemp("compared")
    values: dict[str, Any] = yaml.safe_load(config.read_text())
    values["run_dir"] = str(folder / "run")
    values["prompts"] |= {"validator": {"max_history": 1}}
    values["teacher"]["init_args"]["fraction"] = 0.5
    values["loop"] |= {"rounds": 1, "comparisons": list(COMPARISONS), "warmup_users": None}
    values["ctr"] |= {"arms": ["none", "reccot"], "seeds": [0], "classics": []}
    values["ctr"]["trainer"]["max_epochs"] = 1
    path = folder / "compared.yaml"
    path.write_text(yaml.safe_dump(values))
    return path, {command: call(command, "--config", str(path)) for command in ("fit", "test")}


def numbers(path: Path) -> RunNumbers:
    values = yaml.safe_load(path.read_text())
    return RunNumbers(Path(values["run_dir"]), values)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_the_table_is_that_of_the_scores(compared: tuple[Path, dict[str, str]], split: str) -> None:
    run = numbers(compared[0])
    table = reading_blocks(run, split)[0]
    assert isinstance(table, TableBlock)
    assert [row[0] for row in table.rows] == list(ROWS)
    answers = {}
    for name, (folder, validator, source) in ROWS.items():
        scores = run.table("test" if split == "test" else f"{folder}/evaluate", "scores")
        assert scores is not None
        sources = (source or "texts") if split == "test" else source
        mine = pl.col("validator") == validator
        mine &= pl.col("source") == sources if sources else pl.col("source") != "shuffled"
        answers[name] = scores.filter(mine).join(run.samples, on="sample_id").sort("sample_id")
    assert len({tuple(rows["sample_id"]) for rows in answers.values()}) == 1
    # So small a G writes one text about everyone: another user's reads alike.
    differ = {name: tuple(rows["p_yes"]) for name, rows in answers.items() if name != "another user's RecCoT"}
    assert len(set(differ.values())) == len(ROWS) - 1
    ours, plain = answers["RecCoT after the loop"], answers["tuned V, no text"]
    for name, _, value, gain, lead in table.rows:
        rows = answers[str(name)]
        assert isinstance(value, Num)
        assert value.value == pytest.approx(auc(rows["p_yes"], rows["label"]), abs=1e-6)
        assert value.n == len(rows)
        for shown, a, b in ((gain, rows, plain), (lead, ours, rows)):
            if a is b:
                assert shown == "–"
                continue
            arrays = (one["p_yes"].to_numpy().astype(float) for one in (a, b))
            due = paired_bootstrap(auc, a["user_id"].to_numpy(), a["label"].to_numpy(), *arrays, n_resamples=500)
            assert isinstance(shown, Num)
            assert (shown.value, shown.low, shown.high) == pytest.approx(due[:3], abs=1e-6, nan_ok=True)


def test_facts_and_titles_take_no_more_tokens_than_a_text(compared: tuple[Path, dict[str, str]]) -> None:
    """Each V reads its own prompt and more: at most the budget for facts and titles, the text's own length for G's."""
    run = numbers(compared[0])
    table = reading_blocks(run, "valid")[0]
    assert isinstance(table, TableBlock)
    tokens = {str(row[0]): row[1].value for row in table.rows if isinstance(row[1], Num)}
    assert list(tokens) == list(ROWS)
    plain = tokens["tuned V, no text"]
    budgets = {
        run.notes(in_comparison(name, kind))["budget_tokens"]
        for name in ("facts", "titles")
        for kind in ("rec_tune", "evaluate")
    }
    (budget,) = budgets
    assert tokens["untuned V, no text"] == plain
    assert plain < tokens["same tokens: titles"] <= plain + budget
    assert plain < tokens["same tokens: facts"] <= plain + budget
    assert tokens["RecCoT after the loop"] == pytest.approx(plain + budget, rel=0.1)
    assert tokens["the whole history"] > tokens["same tokens: titles"]
    loop = run.measured("warmup/evaluate", "valid", "scorer", "prompt_tokens", 0, unit="one")
    assert loop is not None
    assert loop.value > plain


def test_every_v_is_tuned_on_the_same_rows(compared: tuple[Path, dict[str, str]]) -> None:
    run = numbers(compared[0])
    stages = ["round-1/rec_tune", "plain/rec_tune", *(in_comparison(name, "rec_tune") for name in COMPARISONS)]
    for key in ("tuning_rows", "examples", "optimizer_steps", "effective_batch"):
        assert len({run.notes(stage)[key] for stage in stages}) == 1


def test_the_teacher_writes_about_evaluated_histories_and_g_does_not_learn_it(
    compared: tuple[Path, dict[str, str]],
) -> None:
    """The teacher wrote about half of the histories of the loop; about all others that are evaluated it does here."""
    run = numbers(compared[0])
    tables = {stage: run.table(stage, "reccots") for stage in ("teacher", "v-teacher/texts", "v-untuned/texts")}
    taught, evaluated, untuned = (set(rows["history_id"]) for rows in tables.values() if rows is not None)
    samples = run.table("data", "samples")
    assert samples is not None
    read = {
        key
        for stage in ("v-teacher/evaluate", "test")
        for rows in [run.table(stage, "scores")]
        if rows is not None
        for key in rows["history_id"]
    }
    assert evaluated == read - taught
    assert evaluated
    assert read <= untuned
    assert run.notes("distill")["examples"] == len(taught)
    notes = run.notes("v-teacher/rec_tune")
    assert 0 < notes["without_text"] < notes["histories"]
    assert run.notes("v-teacher/evaluate")["without_text"] == 0


def test_it_is_printed_first_and_a_second_fit_runs_nothing(compared: tuple[Path, dict[str, str]]) -> None:
    path, printed = compared
    for command, split in (("fit", "valid"), ("test", "test")):
        titles = [name for name in ("What V reads", "Rounds (validation)", "Arms (") if name in printed[command]]
        assert titles[0] == "What V reads"
        assert f"What V reads ({split})" in printed[command]
        assert printed[command].index("What V reads") < printed[command].index("Rounds (validation)")
        assert "tokens a question with the text" in printed[command]
    again = call("fit", "--config", str(path))
    assert not [line for line in again.splitlines() if line.endswith((" starts", " goes on"))]
    report = (Path(yaml.safe_load(path.read_text())["run_dir"]) / "report/report.md").read_text()
    assert "## What V reads" in report
    assert report.index("## What V reads") < report.index("## Did the texts help?")
