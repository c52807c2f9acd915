"""What other validators (V) read in place of the RecCoT: as many tokens of facts or titles, all of it, other texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from tiny import build_book, frame, reccot_row

from trackrec.distill.teacher import ProfileTeacher
from trackrec.prompts.book import PromptBook
from trackrec.prompts.settings import PromptSettings, ReaderSettings
from trackrec.prompts.templates import NO_HISTORY
from trackrec.recipe.comparisons import Comparison, most_within, text_budget
from trackrec.recipe.names import DATA, TEACHER
from trackrec.recipe.stages.compared_texts import TeacherOnEvaluated
from trackrec.storage.parts import read_table, write_part
from trackrec.validator.prompt_tree import question_tokens, validator_tree

SETTINGS = PromptSettings(history_attributes=False, validator=ReaderSettings(max_history=1))
TEXTS = {f"h{i}": "Likes war. " * (1 + i) for i in range(5)}  # none about h5


class Words:
    """Encodes a word as a token: counts that a person can check."""

    @staticmethod
    def encode_data(text: str) -> list[int]:
        return [0] * len(text.split())


def experiment(tmp_path: Path, book: PromptBook, chat: Any = Words, **more: Any) -> Any:
    """Of an experiment, what a comparison reads: the book, the tokenizer, texts in a folder per stage."""
    known: dict[str, Any] = {"book": book}

    def once(name: str, read: Callable[[], Any]) -> Any:
        if name not in known:
            known[name] = read()
        return known[name]

    def table(stage: str, name: str) -> pl.DataFrame:
        if stage != DATA:
            return read_table(tmp_path / stage, name)
        items = {f"h{i}": [] if book.is_empty(f"h{i}") else ["i0"] for i in range(6)}
        rows = [{"history_id": key, "user_id": "u", "item_ids": ids, "ratings": []} for key, ids in items.items()]
        return frame("histories", rows)

    write_part(tmp_path / "greedy", "reccots", [reccot_row(key, text=text) for key, text in TEXTS.items()])
    models = {"generator": SimpleNamespace(chat=chat)}
    return SimpleNamespace(
        once=once,
        table=table,
        directory=tmp_path.joinpath,
        models=models,
        validator_backbone=None,
        seed=0,
        **more,
    )


def test_the_budget_is_what_a_text_adds_to_a_prompt_on_average() -> None:
    """Four words of notes, of which the last and the summary's marks are joined to the text: Notes on this viewer:
    <summary>Likes war.</summary> has 4 + 2 words, each further sentence two more: 6, 8, 10, 12, 14, in the mean 10.

    The text of h4 doesn't count where nobody wrote it: then 9.
    """
    assert text_budget(Words, build_book(SETTINGS), TEXTS) == 10  # type: ignore[arg-type]
    assert text_budget(Words, build_book(SETTINGS, empty=["h4"]), TEXTS) == 9  # type: ignore[arg-type]
    assert text_budget(Words, build_book(SETTINGS, empty=list(TEXTS)), TEXTS) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("order", ["shared", "release", "prefill"])
def test_the_budget_of_one_text_is_the_difference_of_two_whole_prompts(order: Any, tiny_lm: Any) -> None:
    chat, book = tiny_lm().chat, build_book(PromptSettings(order=order))
    target = [("s", "i3", 1)]
    lengths = [
        question_tokens(validator_tree(chat, book, "h3", [(0, text)], target))[0] for text in (TEXTS["h2"], None)
    ]
    assert text_budget(chat, book, {"h3": TEXTS["h2"]}) == lengths[0] - lengths[1]


def test_titles_are_added_while_they_fit(tmp_path: Path) -> None:
    """h5 holds seven films, of which V's own prompt lists one. Before it stand a line of six words, one of five (its
    film has no year), and four of six. 10 words take one more, 11 and 16 two, 17 three, 35 the six others, and 5 none.
    """
    book = build_book(SETTINGS)
    fits = ((5, 1, 0), (10, 2, 6), (11, 3, 11), (16, 3, 11), (17, 4, 17), (35, 7, 35), (99, 7, 35))
    for budget, titles, words in fits:
        exp = experiment(tmp_path / str(budget), book)
        exp.once("budget", lambda budget=budget: budget)
        read = Comparison("titles", "greedy").reading(exp, ["h5"], tunes=True)
        lines = read.book.validator_history("h5").splitlines()
        assert len(lines) == 1 + titles
        assert lines[-1] == "The Night River 1 (1972): disliked"  # the newest stays the last
        assert read.texts == {"h5": None}
        assert read.notes == {"budget_tokens": budget, "more_tokens": float(words)}
        assert read.book.history_text("h5") == book.history_text("h5")
        assert book.validator_history("h5").count("\n") == 1  # the run's own book is as it was


def test_facts_are_the_counts_and_as_many_kinds_as_fit(tmp_path: Path) -> None:
    """By hand: with the counts alone the first line is ``A viewer. Liked 2 of 7 films. The latest, oldest first:``, 11
    words instead of the 7 of ``The films a viewer rated, oldest first:``, so 4 more; a first liked and a first
    disliked kind add ``Mostly liked: War (1).`` and ``Mostly disliked: Drama (3).``, 4 words each.
    """
    book = build_book(SETTINGS)
    firsts = {}
    for budget in (3, 4, 11, 12, 99):
        exp = experiment(tmp_path / str(budget), book)
        exp.once("budget", lambda budget=budget: budget)
        read = Comparison("facts", "greedy").reading(exp, ["h5"], tunes=False)
        first, *titles = read.book.validator_history("h5").splitlines()
        assert titles == ["The Night River 1 (1972): disliked"]
        firsts[budget] = first
        assert read.notes["more_tokens"] <= budget
    assert firsts[3] == "The films a viewer rated, oldest first:"
    assert firsts[4] == firsts[11] == "A viewer. Liked 2 of 7 films. The latest, oldest first:"
    assert firsts[12].count("(") == 2
    every = PromptSettings(history_counts=True, history_kinds=99, max_history=1, history_attributes=False)
    assert firsts[99] == book.segment("h5", every).splitlines()[0]
    assert firsts[99].count("(") > 2


def test_an_empty_history_has_nothing_to_add(tmp_path: Path) -> None:
    book = build_book(SETTINGS, empty=["h2"])
    for name in ("facts", "titles", "whole"):
        read = Comparison(name, "greedy").reading(experiment(tmp_path / name, book), ["h2", "h3"], tunes=True)
        assert read.book.validator_history("h2") == "The films a viewer rated: none yet."
        assert read.book.validator_history("h3") != book.validator_history("h3")


def test_the_longest_that_fits_by_hand() -> None:
    """Lengths 2, 3, 5, 9: one more takes one word, two take three, three take seven."""
    offer = ["a b", "a b c", "a b c d e", "a b c d e f g h i"].__getitem__
    found = [most_within(Words, offer, 3, budget)[1] for budget in (0, 1, 2, 3, 6, 7, 100)]  # type: ignore[arg-type]
    assert found == [0, 1, 1, 3, 3, 7, 7]
    assert most_within(Words, offer, 0, 100) == ("a b", 0)  # type: ignore[arg-type]


def test_the_whole_history_is_what_g_reads(tmp_path: Path) -> None:
    book = build_book(SETTINGS)
    read = Comparison("whole", "greedy").reading(experiment(tmp_path, book), ["h5"], tunes=True)
    segments = read.book.validator_prompt("h5", read.texts["h5"], "i3")
    assert segments == [book.history_text("h5"), *book.validator_prompt("h5", None, "i3")[1:]]
    assert len(segments[0].splitlines()) == 8


def test_the_teachers_texts_about_evaluated_histories_tune_no_v(tmp_path: Path) -> None:
    """h1 has a text of the stage ``teacher``, h2 one of the comparison's own, h3 none, and h4 is empty."""
    book = build_book(SETTINGS, empty=["h4"])
    exp = experiment(tmp_path, book)
    for stage, key in ((TEACHER, "h1"), ("v-teacher/texts", "h2")):
        write_part(tmp_path / stage, "reccots", [reccot_row(key, text=f"of {stage}")])
    asked = ["h1", "h2", "h3", "h4"]
    own = {"h1": f"of {TEACHER}", "h4": NO_HISTORY}
    comparison = Comparison("teacher", "greedy")
    tuned = comparison.reading(exp, asked, tunes=True)
    assert tuned.texts == {**dict.fromkeys(asked), **own}
    assert tuned.notes == {"histories": 4, "without_text": 2}
    evaluated = comparison.reading(exp, asked, tunes=False)
    assert evaluated.texts == {**dict.fromkeys(asked), **own, "h2": "of v-teacher/texts"}
    assert evaluated.book.validator_history("h3") == book.validator_history("h3")


def test_the_teacher_writes_about_every_evaluated_history_that_it_has_not_yet(tmp_path: Path) -> None:
    """Whatever its fraction; h1 it knows, and about h4, which is empty, nobody is asked."""
    book = build_book(SETTINGS, empty=["h4"])
    rows = pl.DataFrame({"history_id": ["h0", "h1", "h2", "h2"]})
    cohort = SimpleNamespace(valid=rows, test=pl.DataFrame({"history_id": ["h3", "h4"]}))
    loop = SimpleNamespace(wrong_teacher=False)
    exp = experiment(tmp_path, book, teacher=ProfileTeacher(fraction=0.01), loop=loop)
    exp.once("cohort", lambda: cohort)
    write_part(tmp_path / TEACHER, "reccots", [reccot_row("h1", text="known")])
    notes = TeacherOnEvaluated().run(exp, tmp_path / "out")
    assert sorted(read_table(tmp_path / "out", "reccots")["history_id"]) == ["h0", "h2", "h3"]
    assert notes["asked"] == 3
    write_part(tmp_path / TEACHER, "reccots", [reccot_row(f"h{i}", text="known") for i in range(4)])
    assert TeacherOnEvaluated().run(exp, tmp_path / "none") == {"asked": 0}
    assert not len(read_table(tmp_path / "none", "reccots"))


def test_the_tokens_of_a_question_are_those_on_its_way_through_the_tree() -> None:
    """A history of three tokens, two texts of two and one, and targets of four and five: 3+2+4, 3+2+5, 3+1+4, 3+1+5."""
    tree = [(3, -1), (2, 0), (4, 1), (5, 1), (1, 0), (4, 4), (5, 4)]
    branches = [SimpleNamespace(ids=[0] * length, parent=parent) for length, parent in tree]
    entry: Any = SimpleNamespace(tree=branches, branches=[2, 3, 5, 6])
    assert question_tokens(entry) == [9, 10, 8, 9]
