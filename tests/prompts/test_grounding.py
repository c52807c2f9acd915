"""Names in a text against the names in a history."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackrec.distill.teacher import ProfileTeacher, TeacherRequest, TeacherTexts
from trackrec.distill.texts import write_teacher_texts
from trackrec.prompts.grounding import ClaimChecker, normal_form
from trackrec.prompts.settings import PromptSettings
from trackrec.prompts.templates import Item, Rated

TITLES = [
    "The Silver River",
    "Silver River",
    "It",
    "Heat",
    "Casablanca",
    "War of the Worlds",
    "Amélie and Co.",
    "12 Men",
]
ATTRIBUTES = ["Drama", "War", "Film-Noir", "Children's", "Sci-Fi"]
HISTORY = [
    Rated(Item("The Silver River", ["Drama", "Children’s"], 1994), True),
    Rated(Item("Casablanca", ["Film-Noir"], 1942), False),
]


@pytest.mark.parametrize(
    ("text", "claims", "unsupported"),
    [
        ("", 0, 0),
        ("Likes drama (2); avoids war.", 2, 1),
        ("Likes the SILVER  river and Casablanca.", 2, 0),
        ("Likes Silver River.", 1, 1),  # another film of the catalogue
        ("Enjoyed War of the Worlds.", 1, 1),  # the title, not the attribute inside it
        ("Enjoyed war, and war, and War.", 1, 1),  # once per text
        ("Film noir and children's films.", 2, 0),
        ("Dramatic, warlike, dramas.", 0, 0),  # parts of words are none
        ("It was the heat.", 0, 0),  # short titles of one word are ordinary words
        ("Amelie and Co", 0, 0),
        ("AMÉLIE AND CO!", 1, 1),
        ("Ame\u0301lie and Co", 1, 1),  # the same letter, written in two code points
        ("12 Men and a Sci Fi drama", 3, 2),
        ("Loves Nightfall by Moonlight.", 0, 0),  # not in the catalogue: unknown, not wrong
    ],
)
def test_by_hand(text, claims, unsupported):
    assert ClaimChecker(TITLES, ATTRIBUTES).check(text, HISTORY) == (claims, unsupported)


def test_an_empty_catalogue_and_an_empty_history():
    assert ClaimChecker([], []).check("Likes Drama.", HISTORY) == (0, 0)
    assert ClaimChecker(TITLES, ATTRIBUTES).check("Likes Drama and Casablanca.", []) == (2, 2)
    assert ClaimChecker(["", "!?"], [""]).check("Likes it.", []) == (0, 0)


@settings(max_examples=60, deadline=None, database=None)
@given(st.lists(st.sampled_from(range(30)), min_size=1, max_size=12), st.lists(st.booleans(), min_size=12, max_size=12))
def test_a_profile_claims_nothing_that_its_history_lacks(numbers, likes):
    catalogue = [Item(f"The {n} Rivers", [f"Kind {n % 5}"], 1950 + n) for n in range(30)]
    history = [Rated(catalogue[n], like) for n, like in zip(numbers, likes, strict=False)]
    request = TeacherRequest("h", "u", history)
    (text,) = ProfileTeacher().write([request], PromptSettings(), None).texts  # type: ignore[arg-type]
    titles, attributes = [item.title for item in catalogue], [f"Kind {n}" for n in range(5)]
    assert ClaimChecker(titles, attributes).check(text, history).unsupported == 0


@settings(max_examples=50, deadline=None, database=None)
@given(st.text(), st.lists(st.text(), max_size=5), st.lists(st.text(), max_size=5))
def test_any_text_is_read(text, titles, attributes):
    claims, unsupported = ClaimChecker(titles, attributes).check(text, HISTORY)
    assert 0 <= unsupported <= claims


class _Says(ProfileTeacher):
    def __init__(self, *texts: str | None) -> None:
        super().__init__(1.0)
        self.said = texts

    def write(self, requests, words, out_dir):
        return TeacherTexts(list(self.said), {"requests": 9}, frozenset({"h1"}))


def test_the_stage_counts_it(tiny_book, tmp_path):
    """h0 holds Drama, not Action; the text about h1 names nothing; h5 has none."""
    held = {name for entry in tiny_book.history("h0") for name in entry.item.attributes}
    assert "Drama" in held
    assert "Action" not in held
    title = tiny_book.history("h0")[0].item.title
    said = _Says(f"Likes Drama and {title}, not Action.", "Says little.", None)
    counts = write_teacher_texts(said, tiny_book, ["h0", "h1", "h5"], tmp_path, seed=0)
    assert counts["claims"] == 3
    assert counts["unsupported_share"] == 0.3333
    assert (counts["asked"], counts["without_text"], counts["requests"]) == (3, 1, 9)


def test_a_cut_text_is_filed_as_such(tiny_book, tmp_path):
    import polars as pl

    counts = write_teacher_texts(_Says("a", "b", "c"), tiny_book, ["h0", "h1", "h2"], tmp_path, seed=0)
    rows = pl.read_parquet(tmp_path / "reccots")
    assert dict(zip(rows["history_id"], rows["finish_reason"], strict=True)) == {
        "h0": "stop",
        "h1": "length",
        "h2": "stop",
    }
    assert counts["unsupported_share"] is None


def test_mentions_tell_where_they_stand():
    checker = ClaimChecker(TITLES, ATTRIBUTES)
    text = "Enjoyed WAR of the  Worlds, film-noir and Sci Fi; Sci-Fi again."
    places = checker.unsupported(text, HISTORY)
    assert [text[mention.start : mention.end] for mention in places] == ["WAR of the  Worlds", "Sci Fi", "Sci-Fi"]
    assert [mention.is_title for mention in places] == [True, False, False]
    assert checker.check(text, HISTORY) == (3, 2)


@settings(max_examples=50, deadline=None, database=None)
@given(st.text())
def test_mentions_lie_in_the_normal_form_in_order(text):
    text = f"{text} Silver River {text} Drama"
    mentions = list(ClaimChecker(TITLES, ATTRIBUTES).mentions(text))
    ends = [0, *(mention.end for mention in mentions)]
    starts = [mention.start for mention in mentions]
    assert all(end <= start for end, start in zip(ends, starts, strict=False))
    assert ends[-1] <= len(normal_form(text))
    assert mentions[-1].words == ("drama",)
