"""Teachers: texts that depend on the history alone, and files that say what is wrong with them."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import build_book

from trackrec.distill.teacher import ProfileTeacher, TableTeacher, TeacherRequest, TeacherTexts
from trackrec.distill.texts import swap_users, write_teacher_texts
from trackrec.prompts.settings import PromptSettings
from trackrec.prompts.templates import Item, Rated
from trackrec.storage.parts import read_table

WORDS = PromptSettings()
NOWHERE = Path("/nonexistent")  # these teachers keep nothing
GENRES = ["Drama", "Comedy", "Film Noir", "Science Fiction", "War"]


def request(likes: list[bool], key: str = "h0", start: int = 0) -> TeacherRequest:
    items = [
        Item(f"Title{start + i}", [GENRES[(start + i) % 5], GENRES[(start + i * 2) % 5]], 1950 + 5 * (i % 9))
        for i in range(len(likes))
    ]
    return TeacherRequest(key, f"u{key}", [Rated(item, like) for item, like in zip(items, likes, strict=True)])


def write(one: TeacherRequest, words: PromptSettings = WORDS, **kwargs) -> str:
    (text,) = ProfileTeacher(**kwargs).write([one], words, NOWHERE).texts
    assert text is not None
    return text


def test_a_profile_is_a_function_of_the_history():
    one = request([True, False, True, True])
    alone = write(one)
    others = [request([False] * 5, f"h{i}") for i in range(1, 4)]
    among = ProfileTeacher().write([*others, one, *others], WORDS, NOWHERE).texts
    assert among[3] == alone == write(one)
    assert write(request([False, True, False, False])) != alone


def test_a_teacher_that_does_not_know_what_helps_writes_some_of_its_sentences():
    """Each history gets another choice of two of the five, in the order of the whole text, and always the same."""
    ones = [request([True, False, True, True], f"h{i}") for i in range(40)]
    wholes = ProfileTeacher().write(ones, WORDS, NOWHERE).texts
    parts = ProfileTeacher(sentences=2).write(ones, WORDS, NOWHERE).texts
    chosen = []
    for whole, part in zip(wholes, parts, strict=True):
        sentences = re.findall(r"[^.]+\.", whole)
        written = re.findall(r"[^.]+\.", part)
        places = [[one.strip() for one in sentences].index(two.strip()) for two in written]
        assert len(sentences) == 5
        assert len(places) == 2
        assert places == sorted(places)
        chosen.append(tuple(places))
    assert len(set(chosen)) >= 8  # of ten pairs
    assert ProfileTeacher(sentences=2).write(ones, WORDS, NOWHERE).texts == parts
    assert ProfileTeacher(sentences=9).write(ones, WORDS, NOWHERE).texts == wholes
    with pytest.raises(ValueError, match=r"teacher\.init_args\.sentences must be at least 1 or null, got 0"):
        ProfileTeacher(sentences=0)


def test_the_generosity_counts_what_the_prompt_counts():
    """With the count above the list the teacher repeats it; without, it speaks of the items shown."""
    one = request([True] * 7 + [False] * 3)
    assert re.search(r"7 of 10", write(one, PromptSettings(max_history=4, history_counts=True)))
    assert re.search(r"1 of 4", write(one, PromptSettings(max_history=4)))


def test_the_kinds_are_those_that_the_prompt_names():
    """War was liked three times, then disliked twice: all five lean to it, the newest two don't."""
    war = [Rated(Item(f"Title{n}", ["War"], 1950), n < 3) for n in range(5)]
    one = TeacherRequest("h0", "u0", war)
    whole = write(one, PromptSettings(max_history=2, history_kinds=3))
    shown = write(one, PromptSettings(max_history=2))
    assert re.search(r"(Enjoys|Likes|Is drawn to|Prefers) War \(3\)", whole)
    assert re.search(r"(Avoids|Is cool on|Dislikes|Turns away from) War \(2\)", shown)


def test_chosen_items_give_a_taste_and_no_counts():
    """A list without ratings holds what was chosen: how generous the user is, and how often, isn't known."""
    one = request([True] * 12)
    chosen = one._replace(history=[entry._replace(rated=False) for entry in one.history])
    text = write(chosen, PromptSettings(history_counts=True, history_kinds=3, history_years=False))
    assert re.match(r"(Enjoys|Likes|Is drawn to|Prefers) Drama, ", text)
    assert "Title11" in text
    assert not re.search(r"\b(of|from|based|generous|balanced|harsh)\b|\(\d+\)", text)
    mixed = one._replace(history=[entry._replace(rated=place < 3) for place, entry in enumerate(one.history)])
    assert "3 of 3" in write(mixed)
    nothing = ProfileTeacher(favourites=0).write([chosen], PromptSettings(history_attributes=False), NOWHERE).texts
    assert nothing == [None] or "era" in nothing[0] or "0s" in nothing[0]


def test_an_empty_history_gets_no_text():
    made = ProfileTeacher().write([request([]), request([True], "h1")], WORDS, NOWHERE).texts
    assert made[0] is None
    assert made[1]


def test_a_profile_by_hand():
    """Two liked Dramas, one disliked War: the counts are in the text, and how little it knows."""
    drama, war = Item("A", ["Drama"], 1994), Item("B", ["War"], 1995)
    text = write(TeacherRequest("h", "u", [Rated(drama, True), Rated(war, False), Rated(drama, True)]))
    assert "Drama (2)" in text
    assert "War (1)" in text
    assert re.search(r"2 of 3", text)
    assert "Mostly a guess" in text
    assert "3 films" in text


def test_eras_are_told_only_where_the_prompt_shows_years():
    """Half of the liked films are of the 1980s, half of the 1990s: an era is named for one wording or the other."""
    history = [Rated(Item(name, [], year), True) for name, year in (("A", 1984), ("B", 1994))]
    shown, hidden = (
        ProfileTeacher().write([TeacherRequest("h", "u", history)], words, NOWHERE).texts[0]
        for words in (PromptSettings(), PromptSettings(history_years=False))
    )
    assert "0s" in shown
    assert "0s" not in hidden


@settings(max_examples=60, deadline=None, database=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, 99), st.sampled_from([15, 25, 60, 200]))
def test_a_profile_keeps_to_its_words_and_names_only_what_the_history_holds(likes, start, max_words):
    one = request(likes, f"h{start}", start)
    text = write(one, max_words=max_words)
    assert text
    assert len(text.split()) <= max_words
    liked = {entry.item.title for entry in one.history if entry.liked}
    assert set(re.findall(r"Title\d+", text)) <= liked
    held = {name for entry in one.history for name in entry.item.attributes}
    assert {name for name in GENRES if name in text} <= held


def test_only_the_shown_history_is_read():
    """max_history bounds what G sees; the teacher may not know more."""
    long = request([False] * 20 + [True] * 5)
    short = TeacherRequest(long.history_id, long.user_id, long.history[-5:])
    assert write(long, PromptSettings(max_history=5)) == write(short)


def test_titles_and_genres_are_folded_to_one_line():
    item = Item("Two\nLines", ["Dra\nma"], 1990)
    text = write(TeacherRequest("h", "u", [Rated(item, True)] * 3))
    assert "\n" not in text


def test_words_of_another_domain():
    words = PromptSettings(item="song", items="songs", user="listener", liked="played", disliked="skipped")
    text = " ".join(write(request([True, False] * 12, f"h{i}"), words) for i in range(8))
    assert "songs" in text
    assert "played" in text
    assert not re.search(r"film|viewer|disliked", text)


def test_wording_varies_between_histories():
    openings = {write(request([True, True, True], f"h{i}")).split()[0] for i in range(30)}
    assert len(openings) >= 3


@pytest.mark.parametrize(("fraction", "due"), [(0.05, 5), (0.5, 50), (1.0, 100), (0.001, 1)])
def test_the_share_is_picked_by_hash(fraction, due):
    ids = [f"h{i}" for i in range(100)]
    teacher = ProfileTeacher(fraction)
    chosen = teacher.choose(ids, seed=1)
    assert len(chosen) == len(set(chosen)) == due
    assert set(chosen) <= set(ids)
    assert chosen == sorted(chosen) == teacher.choose(ids[::-1], seed=1)
    if due == 5:
        assert chosen != teacher.choose(ids, seed=2)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"fraction": 0.0}, r"teacher\.init_args\.fraction must be in \(0, 1\], got 0\.0"),
        ({"fraction": 1.5}, r"got 1\.5"),
        ({"max_words": 14}, r"teacher\.init_args\.max_words must be at least 15, got 14"),
    ],
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        ProfileTeacher(**setting)


# -- texts from a file --------------------------------------------------------------------------------------------

ROWS = pl.DataFrame({"history_id": ["h0", "h2", "h3"], "text": [" Likes Drama. ", "Avoids War.\nAlways.", "  "]})
REQUESTS = [request([True], key) for key in ("h0", "h1", "h2", "h3")]
DUE = ["Likes Drama.", None, "Avoids War.\nAlways.", None]


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.ndjson", "t.parquet"])
def test_every_kind_of_file(tmp_path, name):
    path = tmp_path / name
    {"t.csv": ROWS.write_csv, "t.parquet": ROWS.write_parquet}.get(name, ROWS.write_ndjson)(path)
    assert TableTeacher(path).write(REQUESTS, WORDS, NOWHERE).texts == DUE


def test_a_file_by_user(tmp_path):
    ROWS.select(user_id="u" + pl.col("history_id"), text="text").write_csv(tmp_path / "t.csv")
    assert TableTeacher(tmp_path / "t.csv").write(REQUESTS, WORDS, NOWHERE).texts == DUE


def test_numeric_ids_are_read_as_text(tmp_path):
    pl.DataFrame({"user_id": [1, 2], "text": ["a", "b"]}).write_csv(tmp_path / "t.csv")
    asked = [TeacherRequest("h", "2", []), TeacherRequest("g", "1", [])]
    assert TableTeacher(tmp_path / "t.csv").write(asked, WORDS, NOWHERE).texts == ["b", "a"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"history_id": ["h0"], "txt": ["a"]}, r"has columns \['history_id', 'txt'\]; it needs text and one of"),
        ({"text": ["a"]}, "it needs text and one of history_id, user_id"),
        ({"history_id": ["h0", "h0"], "text": ["a", "b"]}, "has history_id 'h0' more than once"),
        ({"history_id": ["other"], "text": ["a"]}, "none of the 4 histories asked for; the first is history_id 'h0'"),
    ],
)
def test_a_file_that_does_not_fit_says_why(tmp_path, rows, message):
    pl.DataFrame(rows).write_csv(tmp_path / "t.csv")
    with pytest.raises(ValueError, match=message):
        TableTeacher(tmp_path / "t.csv").write(REQUESTS, WORDS, NOWHERE)


@pytest.mark.parametrize("name", ["missing.csv", "t.txt"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name):
    (tmp_path / "t.txt").write_text("text")
    with pytest.raises(ValueError, match=r"is not a file ending in \.csv, \.jsonl"):
        TableTeacher(tmp_path / name).write(REQUESTS, WORDS, NOWHERE)


def test_an_edited_file_changes_the_key(tmp_path):
    path = tmp_path / "t.csv"
    ROWS.write_csv(path)
    before = TableTeacher(path).content_key()
    assert list(before) == ["t.csv"]
    path.write_text(path.read_text().replace("Drama", "Horror"))
    assert TableTeacher(path).content_key() != before
    path.unlink()
    with pytest.raises(ValueError, match="no file"):
        TableTeacher(path).content_key()


# -- a wrong teacher ----------------------------------------------------------------------------------------------


@given(
    users=st.lists(st.integers(0, 5), min_size=2, max_size=30),
    silent=st.sets(st.integers(0, 29)),
    seed=st.integers(0, 3),
)
def test_no_user_keeps_a_text_of_their_own(users, silent, seed):
    asked = [TeacherRequest(f"h{place}", f"u{user}", []) for place, user in enumerate(users)]
    texts = [None if place in silent else f"about {one.user_id}, {place}" for place, one in enumerate(asked)]
    told = [one.user_id for one, text in zip(asked, texts, strict=True) if text]
    if 2 * max(map(told.count, told), default=0) > len(told):
        with pytest.raises(ValueError, match=r"loop\.wrong_teacher: one user has \d+ of the teacher's \d+ texts"):
            swap_users(asked, TeacherTexts(texts, {}), seed)
        return
    found = swap_users(asked, TeacherTexts(texts, {"n": 1}, frozenset({"h0"})), seed)
    assert sorted(filter(None, found.texts)) == sorted(filter(None, texts))
    for one, text, before in zip(asked, found.texts, texts, strict=True):
        assert (text is None) == (before is None)
        assert text is None or f"about {one.user_id}," not in text
        if text is not None:
            assert (one.history_id in found.cut) == text.endswith(", 0")
    assert found.counts == {"n": 1}


def test_a_wrong_teacher_names_what_the_history_does_not_hold(tiny_book, tmp_path):
    keys = ["h0", "h1", "h2", "h3"]
    shares = [
        write_teacher_texts(ProfileTeacher(1.0), tiny_book, keys, tmp_path / str(wrong), 0, wrong)["unsupported_share"]
        for wrong in (False, True)
    ]
    assert shares[0] == 0
    assert shares[1] > 0.2
    own, other = (read_table(tmp_path / name, "reccots") for name in ("False", "True"))
    assert own["history_id"].to_list() == other["history_id"].to_list()
    assert all(a != b for a, b in zip(own["text"], other["text"], strict=True))


def test_no_teacher_is_asked_about_an_empty_history(tmp_path: Path) -> None:
    """Also where a file has a text for its user; the teacher's share is one of the histories that it can describe."""
    keys = [f"h{u}" for u in range(6)]
    book = build_book(empty={"h1", "h4"})
    texts = tmp_path / "texts.csv"
    texts.write_text("user_id,text\n" + "".join(f"u{u},Enjoys Drama.\n" for u in range(6)))
    for name, teacher, asked in (("all", TableTeacher(texts), 4), ("half", ProfileTeacher(0.5), 2)):
        counts = write_teacher_texts(teacher, book, keys, tmp_path / name, 0, False)
        assert (counts["asked"], counts["without_text"], counts["without_history"]) == (asked, 0, 2)
        assert not {"h1", "h4"} & set(read_table(tmp_path / name, "reccots")["history_id"])
    assert "without_history" not in write_teacher_texts(ProfileTeacher(), build_book(), keys, tmp_path / "w", 0, False)


@pytest.mark.parametrize(("name", "content"), [("t.jsonl", '{"user_id": '), ("t.csv", ""), ("t.parquet", "no Parquet")])
def test_a_file_of_texts_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=rf"^teacher\.init_args\.path: .*{name} can't be read"):
        TableTeacher(tmp_path / name).write(REQUESTS, WORDS, NOWHERE)
