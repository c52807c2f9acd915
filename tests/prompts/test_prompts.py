"""Templates: what they show, what they never show, and that data can't break their lines."""

from __future__ import annotations

import polars as pl
import pytest
from tiny import build_book, frame

from trackrec.prompts.book import PromptBook
from trackrec.prompts.grounding import ClaimChecker
from trackrec.prompts.settings import PromptSettings
from trackrec.prompts.templates import (
    NO_HISTORY,
    Item,
    Rated,
    describe,
    evidence,
    fold,
    history_facts,
    history_segment,
    prompt_hash,
    reccot_segments,
    validator_segments,
)

HISTORY = [Rated(Item("Iron Coast", ["War", "Drama"], 1994), True), Rated(Item("Blue Harbour", [], None), False)]
SHOWN = "The films a viewer rated, oldest first:\nIron Coast (1994) [War, Drama]: liked\nBlue Harbour: disliked"


def test_the_history_segment_literal():
    assert history_segment(HISTORY, PromptSettings()) == SHOWN
    bare = history_segment(HISTORY, PromptSettings(history_attributes=False))
    assert bare == SHOWN.replace(" [War, Drama]", "")


def test_years_of_the_history_are_left_out_on_request():
    settings = PromptSettings(history_years=False)
    assert history_segment(HISTORY, settings) == SHOWN.replace(" (1994)", "")
    told = validator_segments("", None, HISTORY[0].item, settings)
    assert told[-1] == "\n\nNext film: Iron Coast (1994) [War, Drama]."


def test_the_count_is_that_of_the_whole_history():
    settings = PromptSettings(history_counts=True, max_history=1)
    due = "A viewer. Liked 1 of 2 films. The latest, oldest first:\nBlue Harbour: disliked"
    assert history_segment(HISTORY, settings) == due


def test_the_kinds_lean_as_the_whole_history_does():
    """War stands 2 to 1, Drama 1 to 1, Crime 0 to 2, Space 0 to 1: the even one is not named, the clearest first."""
    names = [(["War", "Drama"], True), (["War"], True), (["War", "Crime"], False), (["Crime", " Drama "], False)]
    history = [Rated(Item("Film", attributes), liked) for attributes, liked in [*names, (["Space"], False)]]
    settings = PromptSettings(history_kinds=1, history_counts=True, max_history=1)
    counts = "A viewer. Liked 2 of 5 films. Mostly liked: War (2). Mostly disliked: Crime (2)."
    assert history_segment(history, settings) == f"{counts} The latest, oldest first:\nFilm [Space]: disliked"
    two = history_segment(history, PromptSettings(history_kinds=2, max_history=1))
    assert two.startswith("A viewer. Mostly liked: War (2). Mostly disliked: Crime (2), Space (1). The latest")
    first, _, last = SHOWN.split("\n")
    assert history_segment(HISTORY[1:], PromptSettings(history_kinds=2)) == f"{first}\n{last}"
    with pytest.raises(ValueError, match=r"prompts\.history_kinds must be at least 0, got -1"):
        PromptSettings(history_kinds=-1)


def test_chosen_items_are_listed_as_liked_and_not_counted():
    """Without ratings neither how many were liked nor how often a genre was is known."""
    settings = PromptSettings(history_counts=True, history_kinds=1)
    chosen = [entry._replace(liked=True, rated=False) for entry in HISTORY]
    shown = "A viewer. Mostly liked: Drama. The latest, oldest first:\nIron Coast (1994) [War, Drama]: liked"
    assert history_segment(chosen, settings) == f"{shown}\nBlue Harbour: liked"
    mixed = [HISTORY[0], chosen[1]]
    assert history_segment(mixed, settings).startswith("A viewer. Liked 1 of 1 films. Mostly liked: Drama. ")


def test_what_is_named_above_the_list_is_evidence_too():
    """A text may name the kinds of a film that has left the list, not its title; without kinds neither."""
    history = [Rated(Item("Old Battle", ["War"]), True), Rated(Item("New Laugh", ["Comedy"]), False)]
    checker = ClaimChecker(["Old Battle", "New Laugh"], ["War", "Comedy"])
    text = "Likes War, saw Old Battle and New Laugh."
    told, bare = PromptSettings(max_history=1, history_kinds=1), PromptSettings(max_history=1)
    assert checker.check(text, evidence(history, told)) == (3, 1)
    assert checker.check(text, evidence(history, bare)) == (3, 2)
    assert evidence(history, bare) == history[-1:]


@pytest.mark.parametrize("told", [{}, {"history_counts": True, "history_kinds": 3}])
def test_an_empty_history_is_said_in_the_words_of_the_domain(told):
    films, news = PromptSettings(**told), PromptSettings("article", "articles", "reader", "was shown", **told)
    assert history_segment([], films) == "The films a viewer rated: none yet."
    assert history_segment([], news) == "The articles a reader was shown: none yet."
    asked = PromptSettings(user_attributes=True, **told)
    assert history_segment([], asked, ["F"]) == "A viewer: F.\nThe films a viewer rated: none yet."
    assert history_facts([], films) == []
    assert evidence([], films) == []


def test_the_book_knows_who_is_cold():
    book = build_book(empty={"h1"})
    assert [book.is_empty(key) for key in ("h0", "h1", "h2")] == [False, True, False]
    assert book.history("h1") == []
    assert book.history_text("h1") == book.reccot_prompt("h1")[0] == "The films a viewer rated: none yet."
    history, notes, *_ = book.validator_prompt("h1", NO_HISTORY, "i3")
    assert history == book.history_text("h1")
    assert notes == "\n\nNotes on this viewer: <summary>No history yet.</summary>"


def test_user_attributes_are_shown_on_request():
    asked = PromptSettings(user_attributes=True)
    assert history_segment(HISTORY, asked, ["F", "25-34"]) == f"A viewer: F, 25-34.\n{SHOWN}"
    assert history_segment(HISTORY, asked, []) == SHOWN
    assert history_segment(HISTORY, PromptSettings(), ["F"]) == SHOWN


def test_the_reccot_prompt_ends_with_the_request():
    history, ask = reccot_segments(SHOWN, PromptSettings(max_words=77))
    assert history == SHOWN
    assert "at most 77 words" in ask
    assert "Use only the list above." in ask


@pytest.mark.parametrize("order", ["shared", "release", "prefill"])
def test_the_validator_prompt_literal(order):
    """shared: history, RecCoT, question, target. release: history, target, RecCoT, question. prefill: target last."""
    target = Item("Night Garden", ["Comedy"], 1987)
    segments = validator_segments(SHOWN, "Likes\nWar.", target, PromptSettings(order=order))
    notes = "\n\nNotes on this viewer: <summary>Likes War.</summary>"
    ask = "\n\nWill this viewer like the next film? Answer Yes or No."
    name = "\n\nNext film: Night Garden (1987) [Comedy]."
    due = {
        "shared": [SHOWN, notes, ask, name],
        "release": [SHOWN, name, notes, ask],
        "prefill": [SHOWN, notes, ask, "Night Garden (1987) [Comedy]:"],
    }
    assert segments == due[order]
    without = validator_segments(SHOWN, None, target, PromptSettings(order=order))
    assert without == [segment for segment in due[order] if segment != notes]
    hidden = validator_segments(SHOWN, None, target, PromptSettings(order=order, target_attributes=False))
    assert "Comedy" not in "".join(hidden)


def test_data_cannot_break_the_lines_of_a_prompt():
    item = Item("Two\nLines\r\n\tand  more", ["Dra\nma"], 2000)
    assert describe(item, PromptSettings(), attributes=True) == "Two Lines and more (2000) [Dra ma]"
    text = history_segment([Rated(item, True)], PromptSettings())
    assert text.count("\n") == 1
    assert fold(" a\u2028b\u00a0c ") == "a b c"


def test_long_titles_are_cut():
    assert describe(Item("x" * 50, [], 1999), PromptSettings(max_title_chars=7), attributes=True) == "xxxxxxx (1999)"


def test_only_the_newest_of_a_history_are_shown():
    entries = [Rated(Item(f"T{i}"), True) for i in range(9)]
    text = history_segment(entries, PromptSettings(max_history=3))
    assert text.splitlines()[1:] == ["T6: liked", "T7: liked", "T8: liked"]


def test_words_of_another_domain():
    words = PromptSettings("song", "songs", "listener", "heard", "play", "played", "skipped")
    history = history_segment(HISTORY, words)
    text = "".join([*reccot_segments(history, words), *validator_segments(history, "x", Item("T"), words)])
    for word in ("song", "songs", "listener heard, oldest", "Will this listener play the next song", "skipped"):
        assert word in text
    for word in ("film", "viewer", "like", "rated"):
        assert word not in text


@pytest.mark.parametrize("key", ["max_words", "max_history", "max_title_chars"])
def test_a_bad_limit_is_named(key):
    with pytest.raises(ValueError, match=rf"prompts\.{key} must be at least 1, got 0"):
        PromptSettings(**{key: 0})


def test_a_prompt_is_identified_by_template_and_text():
    assert prompt_hash("a.v1", ["x", "y"]) == prompt_hash("a.v1", ["x", "y"])
    others = {prompt_hash("a.v2", ["x", "y"]), prompt_hash("a.v1", ["xy"]), prompt_hash("a.v1", ["x", "z"])}
    assert len(others | {prompt_hash("a.v1", ["x", "y"])}) == 4


# -- the book -----------------------------------------------------------------------------------------------------


def test_the_book_reads_histories_oldest_first_and_above_the_threshold(tiny_book):
    """h1: items i3, i4, i5 rated 2, 4, 1; above 3 is liked."""
    assert tiny_book.user_of("h1") == "u1"
    assert [(entry.item.title, entry.liked) for entry in tiny_book.history("h1")] == [
        ("The Blue River 3", False),
        ("The Last River 4", True),
        ("The Silver River 5", False),
    ]
    at = build_book(threshold=4.0)
    assert not any(entry.liked for entry in at.history("h1"))


def test_every_prompt_about_a_history_begins_alike(tiny_book):
    text = tiny_book.history_text("h2")
    prompts = [
        tiny_book.reccot_prompt("h2"),
        tiny_book.validator_prompt("h2", "x", "i1"),
        tiny_book.validator_prompt("h2", None, "i2"),
    ]
    assert [prompt[0] for prompt in prompts] == [text] * 3


def test_gs_prompt_never_sees_a_target(tiny_book):
    """It is a function of the history id alone, and holds no title from outside the history."""
    for key in (f"h{i}" for i in range(6)):
        text = "".join(tiny_book.reccot_prompt(key))
        held = {entry.item.title for entry in tiny_book.history(key)}
        for place in range(20):
            title = tiny_book.item(f"i{place}").title
            assert (f"{title} (" in text or f"{title}:" in text) == (title in held)


def test_an_item_without_attributes_or_year():
    items = [{"item_id": "i", "title": "T", "attributes": None, "year": None}]
    histories = [{"history_id": "h", "user_id": "u", "item_ids": ["i"], "ratings": [5.0]}]
    users = [{"user_id": "u", "attributes": None}]
    settings = PromptSettings(user_attributes=True)
    book = PromptBook(frame("histories", histories), frame("items", items), frame("users", users), 3.0, settings)
    assert book.history_text("h") == "The films a viewer rated, oldest first:\nT: liked"


def test_unknown_ids_are_errors(tiny_book):
    with pytest.raises(KeyError, match="nobody"):
        tiny_book.reccot_prompt("nobody")
    with pytest.raises(KeyError, match="i99"):
        tiny_book.validator_prompt("h0", None, "i99")


def test_the_book_takes_an_item_without_a_rating_for_a_chosen_one():
    histories = pl.DataFrame(
        {"history_id": ["h"], "user_id": ["u1"], "item_ids": [["i3", "i4"]], "ratings": [[None, 1.0]]},
        schema_overrides={"ratings": pl.List(pl.Float32)},
    )
    users = pl.DataFrame({"user_id": ["u1"], "attributes": [[]]}, schema_overrides={"attributes": pl.List(pl.String)})
    items = pl.DataFrame(
        {"item_id": ["i3", "i4"], "title": ["A", "B"], "attributes": [[], []], "year": [None, None]},
        schema_overrides={"attributes": pl.List(pl.String), "year": pl.Int32},
    )
    book = PromptBook(histories, items, users, 3.0, PromptSettings())
    assert [(entry.liked, entry.rated) for entry in book.history("h")] == [(True, False), (False, True)]
