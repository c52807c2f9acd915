"""Two readers of one history: what the generator sees and what the validator sees are set apart."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import build_book

from trackrec.distill.teacher import ProfileTeacher
from trackrec.distill.texts import write_teacher_texts
from trackrec.prompts.settings import PromptSettings, ReaderSettings
from trackrec.recipe.graph import build_graph
from trackrec.recipe.names import kind_of
from trackrec.recipe.settings import LoopSettings
from trackrec.storage.parts import read_table

APART: dict[str, Any] = {
    "history_attributes": False,
    "generator": ReaderSettings(max_history=6, history_counts=True, history_kinds=1),
    "validator": ReaderSettings(max_history=2),
}


def test_each_reader_sees_its_own_part_of_the_history():
    """h5 holds seven films, i15 to i19, i0 and i1, rated 1 3 5 2 4 and again 1 3: two are liked."""
    book = build_book(PromptSettings(**APART))
    assert book.history_text("h5").splitlines()[0].startswith("A viewer. Liked 2 of 7 films. Mostly liked:")
    assert len(book.history_text("h5").splitlines()) == 7
    assert book.validator_history("h5").splitlines() == [
        "The films a viewer rated, oldest first:",
        "The Silver River 0 (1970): disliked",
        "The Night River 1 (1972): disliked",
    ]
    assert book.reccot_prompt("h5")[0] == book.history_text("h5")
    assert book.validator_prompt("h5", "x", "i3")[0] == book.validator_history("h5")


def test_a_key_that_no_reader_sets_is_the_shared_one():
    settings = PromptSettings(max_history=9, history_years=False, validator=ReaderSettings(max_history=0))
    assert settings.for_generator().max_history == 9
    assert settings.for_validator().max_history == 0
    assert settings.for_validator().history_years is settings.for_generator().history_years is False
    same = PromptSettings(max_history=9)
    assert same.for_generator() == same.for_validator()
    assert settings.for_generator() != settings.for_validator()


def test_a_copy_of_the_book_shows_v_another_history():
    """Only the first segment of V's prompt changes; G's prompts, and the book that was copied, stay."""
    book = build_book(PromptSettings(**APART))
    other = book.with_validator_history({"h5": "Nothing but this."}.__getitem__)
    assert other.validator_prompt("h5", "x", "i3") == ["Nothing but this.", *book.validator_prompt("h5", "x", "i3")[1:]]
    assert other.reccot_prompt("h5") == book.reccot_prompt("h5")
    assert len(book.validator_history("h5").splitlines()) == 3


def test_a_validator_can_read_the_text_alone():
    """Without any item listed it isn't told that there is none: that is another user, the one without a history."""
    hidden = build_book(PromptSettings(validator=ReaderSettings(max_history=0)))
    assert hidden.validator_history("h3") == "A viewer."
    counted = build_book(PromptSettings(validator=ReaderSettings(max_history=0, history_counts=True)))
    assert counted.validator_history("h3") == "A viewer. Liked 2 of 5 films."
    empty = build_book(PromptSettings(validator=ReaderSettings(max_history=0)), empty=["h3"])
    assert empty.validator_history("h3") == "The films a viewer rated: none yet."


def test_what_a_text_may_claim_is_what_the_generator_read():
    """The claims are checked against six films and a kind, not against the two that the validator sees."""
    book = build_book(PromptSettings(**APART))
    assert [entry.item.title for entry in book.evidence("h5")][:2] == ["The Night River 16", "The Iron River 17"]
    assert len(book.evidence("h5")) == 7


def test_the_teacher_reads_what_the_generator_reads(tmp_path):
    """Its text counts all seven films, which only the generator's prompt does."""
    book = build_book(PromptSettings(**APART))
    write_teacher_texts(ProfileTeacher(fraction=1.0), book, ["h5"], tmp_path, 0, False)
    (text,) = read_table(tmp_path, "reccots")["text"]
    assert "2 of 7" in text
    assert text.endswith(" 7 films.")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"generator": ReaderSettings(max_history=0)}, r"prompts\.generator\.max_history must be at least 1, got 0"),
        ({"validator": ReaderSettings(max_history=-1)}, r"prompts\.validator\.max_history must be at least 0, got -1"),
        ({"validator": ReaderSettings(history_kinds=-2)}, r"prompts\.validator\.history_kinds must be at least 0"),
    ],
)
def test_a_bad_limit_of_a_reader_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        PromptSettings(**values)


def test_settings_of_a_saved_config_and_of_one_from_before_the_two_readers():
    saved = {"max_words": 30, "generator": {"max_history": 60}, "validator": {"max_history": 3}}
    assert PromptSettings.of(saved).for_generator().max_history == 60
    assert PromptSettings.of({"max_words": 30, "max_history": 4}).for_validator().max_history == 4


def test_what_v_reads_is_no_key_of_the_stages_in_which_g_writes():
    """A change of ``prompts.validator`` leaves the teacher's texts and the distilled G as they are, and vice versa."""
    stages = build_graph(LoopSettings(rounds=1), ["reccot", "prompt", "untuned"], "dense").stages
    readers = {
        kind_of(stage.name): {key for key in ("generator", "validator") if f"prompts.{key}" in stage.keys}
        for stage in stages
    }
    writes, answers = {"generator"}, {"validator"}
    assert readers == {
        "data": set(),
        "teacher": writes,
        "distill": writes,
        "greedy": writes,
        "sample": writes,
        "align": writes,
        "texts": writes,
        "untuned": writes,
        "embed": writes,
        "score": answers,
        "rec_tune": answers,
        "evaluate": answers,
        "preferences": writes,  # what a text may claim is what G read
        "ctr": set(),
    }
    assert all("prompts.max_history" in stage.keys for stage in stages if readers[kind_of(stage.name)])
