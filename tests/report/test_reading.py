"""What V reads: the table against the scores, the sentences for every case, and where it is shown."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from made_run import USERS, MadeRun, made_config
from reading import missing, section, tables
from rich.console import Console

from trackrec.ctr.arms.arm import VALIDATORS
from trackrec.metrics.intervals import paired_bootstrap
from trackrec.metrics.scores import auc
from trackrec.recipe.names import COMPARISONS, comparison_folder
from trackrec.report.numbers import RunNumbers
from trackrec.report.render.document import Code, Num, Paragraph
from trackrec.report.render.terminal import print_report
from trackrec.report.report import build_report
from trackrec.report.sections.reading import Reader, conclusion, reading_blocks, reading_section, trade

SKILLS = {"facts": 0.3, "titles": 0.4, "whole": 0.9, "teacher": 0.5, "untuned": 0.2}
TOKENS = {"reccot": 60, "plain": 40, "facts": 55, "titles": 56, "whole": 150, "other": 61}


def apart() -> dict[str, Any]:
    config = made_config()
    config["prompts"] = {"max_history": 3, "validator": {"max_history": 1}}
    config["loop"]["comparisons"] = list(COMPARISONS)
    return config


@pytest.fixture(scope="module")
def compared_dir(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root, config = tmp_path_factory.mktemp("compared"), apart()
    made = MadeRun(root, config)
    made.all()
    made.compared(SKILLS, TOKENS)
    return root, config


def num(low: float, high: float) -> Num:
    return Num((low + high) / 2, low, high, unit="signed")


BEATS, UNCLEAR, WORSE = num(0.01, 0.03), num(-0.01, 0.03), num(-0.03, -0.01)


def test_each_row_is_the_scores_of_its_v(compared_dir: Any) -> None:
    """Every AUC and difference, computed anew from the scores tables."""
    run = RunNumbers(*compared_dir)
    report = build_report(*compared_dir)
    table, *_ = (one for one in tables(report, "reading") if "validation" in one.caption)
    places = {
        "untuned V, no text": ("plain/evaluate", "base", None),
        "tuned V, no text": ("plain/evaluate", "plain/rec_tune", 40),
        "another user's RecCoT": ("round-2/evaluate", "round-2/rec_tune", 61),
        "same tokens: facts": ("v-facts/evaluate", "v-facts/rec_tune", 55),
        "same tokens: titles": ("v-titles/evaluate", "v-titles/rec_tune", 56),
        "the teacher's text": ("v-teacher/evaluate", "v-teacher/rec_tune", None),
        "the untuned model's text": ("v-untuned/evaluate", "v-untuned/rec_tune", None),
        "RecCoT after the loop": ("round-2/evaluate", "round-2/rec_tune", 60),
        "the whole history": ("v-whole/evaluate", "v-whole/rec_tune", 150),
    }
    assert [line[0] for line in table.rows] == list(places)
    answers = {}
    for name, (stage, validator, _) in places.items():
        scores = run.table(stage, "scores")
        assert scores is not None
        own = scores.filter(
            (scores["validator"] == validator) & ((scores["source"] == "shuffled") == ("another" in name))
        )
        answers[name] = own.join(run.samples, on="sample_id").sort("sample_id")
        assert len(answers[name]) == 4 * USERS
    ours, plain = answers["RecCoT after the loop"], answers["tuned V, no text"]
    for name, tokens, value, gain, lead in table.rows:
        rows = answers[str(name)]
        assert isinstance(value, Num)
        assert value.value == pytest.approx(auc(rows["p_yes"].to_numpy(), rows["label"].to_numpy()), abs=1e-6)
        due = places[str(name)][2]
        assert (tokens.value if isinstance(tokens, Num) else None) == due
        pairs = [(gain, rows, plain, "tuned V, no text"), (lead, ours, rows, "RecCoT after the loop")]
        for shown, a, b, itself in pairs:
            if name == itself:
                assert shown == "–"
                continue
            arrays = (frame_["p_yes"].to_numpy().astype(float) for frame_ in (a, b))
            wanted = paired_bootstrap(auc, a["user_id"].to_numpy(), a["label"].to_numpy(), *arrays, n_resamples=500)
            assert isinstance(shown, Num)
            assert (shown.value, shown.low, shown.high) == pytest.approx(wanted[:3], abs=1e-6)


def test_other_users_texts_are_no_answers_of_the_v(compared_dir: Any) -> None:
    """The V of the last round scored each row twice: under its user's text and under another's."""
    run = RunNumbers(*compared_dir)
    own = run.answers("round-2/evaluate", "round-2/rec_tune")
    others = run.answers("round-2/evaluate", "round-2/rec_tune", "shuffled")
    assert own is not None
    assert others is not None
    assert len(own) == len(others) == 4 * USERS
    assert own["p_yes"].to_list() != others["p_yes"].to_list()
    assert run.answers("round-2/evaluate", "round-2/rec_tune", "nobody") is None


def test_the_sentences_stand_below_and_name_what_they_rest_on(compared_dir: Any) -> None:
    blocks = reading_blocks(RunNumbers(*compared_dir), "valid")
    table, *sentences = blocks
    texts = [block.text for block in sentences if isinstance(block, Paragraph)]
    assert len(texts) == 3
    assert texts[0].startswith("RecCoT beats V without text and")
    assert "the better of both" in texts[0]
    assert texts[1].startswith(
        "V reads 60.0 tokens a question with the text, 150.0 with the whole history (40.0 %), AUC ."
    )
    assert "without a text on 20 of 30 histories" in texts[2]
    assert "at most 17 tokens more" in table.caption  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("against", "text"),
    [
        ({}, ""),
        ({"plain": BEATS}, "RecCoT beats V without text."),
        ({"plain": UNCLEAR}, "There is no evidence that RecCoT beats V without text."),
        ({"plain": WORSE}, "RecCoT is worse than V without text."),
        ({"plain": Num(0.1)}, "There is no evidence that RecCoT beats V without text."),
        ({"plain": num(0.0, 0.1)}, "There is no evidence that RecCoT beats V without text."),
        (
            {"plain": BEATS, "facts": BEATS, "titles": UNCLEAR},
            "RecCoT beats V without text; RecCoT does not beat the same tokens without an LLM (titles, the better of "
            "both).",
        ),
        ({"titles": UNCLEAR}, "RecCoT does not beat the same tokens without an LLM (titles)."),
        ({"facts": WORSE}, "RecCoT does not beat the same tokens without an LLM (facts): it is worse."),
        (
            {"plain": BEATS, "facts": BEATS, "titles": num(0.02, 0.05), "teacher": UNCLEAR, "whole": WORSE},
            "RecCoT beats V without text and the same tokens without an LLM (facts, the better of both); there is no "
            "evidence that RecCoT beats the teacher's text; RecCoT is worse than the whole history.",
        ),
        (
            {"plain": UNCLEAR, "facts": UNCLEAR, "teacher": UNCLEAR, "whole": UNCLEAR},
            "RecCoT does not beat the same tokens without an LLM (facts); there is no evidence that RecCoT beats V "
            "without text, the teacher's text or the whole history.",
        ),
        ({"other": BEATS, "untuned": WORSE}, ""),
    ],
)
def test_what_the_table_supports(against: dict[str, Num], text: str) -> None:
    assert conclusion(against) == text


def test_the_trade_needs_both_sides() -> None:
    ours, whole = Reader(Num(50.0, unit="one"), Num(0.7), None), Reader(Num(200.0, unit="one"), Num(0.75), None)
    assert trade(ours, whole) == (
        "V reads 50.0 tokens a question with the text, 200.0 with the whole history (25.0 %), AUC .7000 against .7500."
    )
    assert trade(ours, None) == trade(None, whole) == trade(ours, whole._replace(tokens=None)) == ""


def test_it_comes_first_where_the_readers_differ(compared_dir: Any, made_dir: Any, tmp_path: Path) -> None:
    assert next(part.key for part in build_report(*compared_dir).sections if part.key != "missing") == "reading"
    assert reading_section(RunNumbers(*made_dir)) is None
    assert reading_blocks(RunNumbers(*made_dir), "valid") == []
    begun = MadeRun(tmp_path, apart())
    begun.data()
    report = build_report(tmp_path, apart())
    assert "No V was evaluated yet" in missing(report)
    assert section(report, "reading").title == "What V reads"


def test_the_terminal_shows_it_first(compared_dir: Any) -> None:
    run = RunNumbers(*compared_dir)
    shown = io.StringIO()
    facts = {"rounds": 2, "split": "valid", "net": "DIN", "seeds": 2}
    print_report(run.metrics, facts, Console(file=shown, width=150), reading_blocks(run, "valid"))
    text = shown.getvalue()
    first = text.splitlines()[0]
    assert first.strip() == "What V reads (valid)"
    assert text.index("RecCoT beats V without text") < text.index("Rounds (validation)")
    (line,) = (line for line in text.splitlines() if "same tokens: facts" in line)
    value = run.measured("v-facts/evaluate", "valid", "v-facts", "auc")
    assert value is not None
    assert f"{value.text} {value.interval}" in line
    assert "55.0" in line
    assert "V tuned, more titles" in text  # the arms' table has its other metrics


def test_the_arms_of_comparisons_are_named_as_their_folders() -> None:
    assert {f"validator/{comparison_folder(name)}" for name in COMPARISONS} < set(VALIDATORS)


def test_both_prompts_of_three_users_word_by_word(compared_dir: Any) -> None:
    """G's shows three films of four, V's one, with G's last text and the item of a validation row."""
    blocks = [block for block in section(build_report(*compared_dir), "prompts").blocks if isinstance(block, Code)]
    assert len(blocks) == 6
    for asked, answers in zip(blocks[::2], blocks[1::2], strict=True):
        user = asked.title.removeprefix("G's prompt, viewer u")
        assert answers.title == f"V's prompt, viewer u{user}"
        assert asked.text.count("liked") - asked.text.count("are liked") >= 3
        assert answers.text.split("\n\n")[0].count("\n") == 1
        assert "<summary>" in answers.text
        assert ", user " + user + ".</summary>" in answers.text or "Loves" in answers.text
        assert answers.text.rstrip().endswith(".")
        assert "Next film:" in answers.text
