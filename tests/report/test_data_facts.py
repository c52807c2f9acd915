"""The facts about the ratings, worked out by hand, and what looks wrong in them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import polars as pl
import pytest
from tiny import frame

from trackrec.interactions import Ratings, SampleRules, build_samples
from trackrec.prompts.settings import PromptSettings, ReaderSettings
from trackrec.report.data.counts import left_out, told_counts
from trackrec.report.data.facts import Bar, DataFacts, Spread, data_facts, histogram
from trackrec.report.data.tables import DataTables
from trackrec.report.data.terminal import look_lines

DAY = 86_400
# Ann likes 4 of 6, Bob 1 of 4, Cy nothing of 2; seconds since 1970-01-11.
LOG = [
    *(("ann", f"i{n}", rating, n) for n, rating in enumerate([5, 4, 2, 5, 3, 4])),
    *(("bob", f"i{n}", rating, n) for n, rating in enumerate([1, 5, 2, 3])),
    *(("cy", f"i{n}", 3, 100) for n in range(2)),
]
RULES = SampleRules(valid=0.25, test=0.25)
PROMPTS = PromptSettings(generator=ReaderSettings(max_history=2), validator=ReaderSettings(max_history=1))


def facts_of(
    log: list[tuple[str, str, float, int]],
    start: int = 400 * DAY,
    prompts: PromptSettings = PROMPTS,
    source: str = "Table",
    stop: str = "",
    rules: SampleRules = RULES,
    **changes: pl.Expr,
) -> DataFacts:
    """Facts about ratings (user, item, rating, seconds after ``start``) of eight titled items, six of them with genres.

    Args:
        changes: columns of the items table to change.
    """
    rows = [
        {"user_id": user, "item_id": item, "rating": rating, "timestamp": start + at, "row": row}
        for row, (user, item, rating, at) in enumerate(log)
    ]
    items = frame(
        "items",
        [{"item_id": f"i{n}", "title": f"Film {n}", "attributes": ["War"] * (n < 6), "year": 1990} for n in range(8)],
    ).with_columns(**changes)
    users = frame("users", [{"user_id": user, "attributes": []} for user in dict.fromkeys(row[0] for row in log)])
    ratings = Ratings(items, users, frame("interactions", rows), {"duplicate_ratings": 3, "bad_rows": 0, "odd": 7})
    histories = samples = None
    counts: dict[str, int] = {}
    if not stop:
        histories, samples, counts = build_samples(ratings, rules, 3.0, 0)
    kept = DataTables(items, users, ratings.interactions, histories, samples)
    return data_facts(kept, {**ratings.counts, **counts}, 3.0, prompts, source, stop)


def told(facts: DataFacts, few: bool = False) -> str:
    """The cautions; LOG has too ``few`` ratings to score texts, which only some tests are about."""
    return " ".join(caution.told for caution in facts.cautions if few or not caution.text.startswith("No train"))


def test_the_facts_by_hand() -> None:
    facts = facts_of(LOG)
    assert (facts.ratings, facts.users, facts.items, facts.unrated_items) == (12, 3, 8, 2)
    assert facts.histogram == tuple(Bar(r, r, n, r > 3) for r, n in ((1, 1), (2, 2), (3, 4), (4, 2), (5, 3)))
    assert (facts.first, facts.last) == ("1971-02-05", "1971-02-05")
    assert facts.like_share == pytest.approx(5 / 12)
    # Shares 0, 1/4 and 2/3: the quartiles lie halfway.
    assert facts.user_like_share == Spread(pytest.approx(1 / 8), pytest.approx(1 / 4), pytest.approx(11 / 24))
    assert facts.one_class_users == 1
    assert facts.per_user == Spread(2, 4, 6)
    # Of i0 ... i5 there are 3, 3, 2, 2, 1 and 1 ratings.
    assert facts.per_item == Spread(1, 2, 3)
    # Histories of 3, 2 and 1; Cy's second rating has the same second as the first.
    assert [(split.name, split.samples) for split in facts.splits] == [("train", 3), ("valid", 1), ("test", 1)]
    assert facts.only_history == 6
    # One rating of each class never scores.
    assert (facts.reward_samples, facts.tune_samples, facts.scored_histories) == (1, 2, 0)
    losses = {loss.what: (loss.count, loss.key) for loss in facts.left_out}
    assert losses == {
        "further ratings of an item by the same user": (3, ""),
        "ratings in the same second as their history (no samples)": (1, "samples.strict_ties"),
        "users who have no sample: all they rated is history": (1, "samples.history_len"),
    }
    assert facts.counts["odd"] == 7


def test_the_histories_are_those_of_both_prompts() -> None:
    """G reads the two newest, V one; Cy has no sample, so no prompt is about Cy."""
    facts = facts_of(LOG)
    ann, bob = facts.histories
    assert (ann.user, ann.items, bob.user, bob.items) == ("ann", 3, "bob", 2)
    shown = ["Film 0 (1990) [War]: liked", "Film 1 (1990) [War]: liked", "Film 2 (1990) [War]: disliked"]
    begin = "The films a viewer rated, oldest first:\n"
    assert ann.generator == begin + "\n".join(shown[1:])
    assert ann.validator == begin + shown[2]
    assert facts.generator_prompt.startswith(ann.generator + "\n\nDescribe the taste")
    assert facts.validator_prompt.startswith(ann.validator + "\n\nNotes on this viewer: <summary>(the text that")
    assert facts.validator_prompt.endswith("Next film: Film 3 (1990) [War].")
    assert [(cut.reader, cut.most, cut.cut, cut.histories) for cut in facts.cuts] == [
        ("generator", 2, 1, 2),
        ("validator", 1, 2, 2),
    ]
    line = "  V lists the newest item (prompts.validator.max_history): 2 of 2 histories have more"
    assert line in look_lines(facts)
    same = facts_of(LOG, prompts=PromptSettings(order="prefill"))
    assert same.histories[0].generator == same.histories[0].validator
    assert same.validator_prompt.endswith("(V's own turn begins with:)\nFilm 3 (1990) [War]:")


def test_ranges_of_many_ratings_end_at_the_threshold() -> None:
    bars = histogram(np.arange(101, dtype=np.float32), 47.0)
    assert [bar.high for bar in bars] == [10, 20, 30, 40, 47, 60, 70, 80, 90, 100]
    assert [bar.ratings for bar in bars] == [11, 10, 10, 10, 7, 13, 10, 10, 10, 10]
    assert [bar.liked for bar in bars] == [False] * 5 + [True] * 5
    plays = histogram(np.array([1, 2, 3, *(2.0**n for n in range(3, 20, 2)), 2.0**20], np.float32), 50.0)
    assert [round(bar.high) for bar in plays] == [4, 16, 50, 256, 1024, 4096, 16384, 65536, 262144, 1048576]
    assert [bar.ratings for bar in plays] == [3, 1, 1, 1, 1, 1, 1, 1, 1, 2]
    assert sum(bar.ratings for bar in bars if bar.liked) == 53  # 48 ... 100


def test_row_numbers_are_no_dates() -> None:
    log = [(f"u{n % 3}", f"i{n // 3}", 1 + n % 5, n) for n in range(18)]
    facts = facts_of(log, start=0)
    assert (facts.first, facts.last) == (None, None)
    assert "1970" not in told(facts)
    assert "no times: the order of the file" in look_lines(facts)[0]


# Eight users, one after the other, like every other item. The first four are train users, with four samples each.
SOUND = [(f"u{n}", f"i{m}", 2 + 3 * (m % 2), 10 * n + m) for n in range(8) for m in range(8)]


def test_sound_ratings_raise_no_caution() -> None:
    facts = facts_of(SOUND)
    assert told(facts, few=True) == ""
    assert (facts.reward_samples, facts.tune_samples, facts.scored_histories) == (8, 8, 4)
    assert "4 of the 4 train histories have both likes and dislikes that score their texts" in look_lines(facts)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        # Of a user's four samples, i4 ... i7, two stay: one to tune V, of each class.
        (("i6", "i7"), r"^No train sample scores texts, .* Change samples\.per\.$"),
        # Three: the second like scores, and there is no second dislike.
        (("i5", "i6", "i7"), r"^No train history has both .* Change samples\.threshold\.$"),
    ],
)
def test_too_few_samples_to_score_texts(wanted: tuple[str, ...], words: str) -> None:
    log = [row for row in SOUND if row[1] < "i4" or row[1] in wanted]
    rules = SampleRules(valid=0.25, test=0.25, history_len=4)
    assert re.search(words, told(facts_of(log, rules=rules), few=True))


@pytest.mark.parametrize(
    ("log", "changes", "words"),
    [
        (LOG, {"start": 0}, r"year 1970: 0 to 100 seconds\. Change dataset\.init_args\.time_unit\.$"),
        (
            LOG,
            {"title": pl.col("item_id")},
            r"^100% of the items have their id .* Change dataset\.init_args\.item_columns\.title\.$",
        ),
        (
            LOG,
            {"attributes": pl.lit([], pl.List(pl.String))},
            r"^No item has attributes, so prompts\.history_attributes, prompts\.target_attributes show nothing\. "
            r"Change dataset\.init_args\.item_columns\.attributes\.$",
        ),
        (LOG, {"title": pl.col("item_id"), "source": "MovieLens"}, r"learns little\.$"),
        (
            [(user, item, 5, 0) for user, item, _, _ in LOG],
            {"stop": "nothing"},
            r"^nothing Every rating is a like: the ratings go from 5 to 5, the threshold is 3\. Change samples"
            r"\.threshold\. All ratings have the same time, .* Change dataset\.init_args\.columns\.timestamp\.$",
        ),
        ([(user, item, 1, at) for user, item, _, at in LOG], {"stop": "no"}, "No rating is a like: the ratings go"),
        (
            [(user, item, 1, at) for user, item, _, at in LOG],
            {"stop": "samples.threshold: x"},
            r"^samples.threshold: x$",
        ),
        (
            [(f"u{n}", f"i{m}", 5 - 2 * (n % 2) - m % 2, m) for n in range(4) for m in range(6)],
            {},
            r"^100% of the users like all that they rated, or nothing\. .* both\. Change samples\.threshold\.$",
        ),
        (
            [("ann", f"i{n % 8}", 1 + (n == 0) * 4, n) for n in range(60)],
            {},
            r"^1\.7% of the ratings are likes: the ratings go from 1 to 5, the threshold is 3\. Change",
        ),
        (
            [(f"u{n}", f"i{m}", 2 + 3 * (m % 2), m // 3) for n in range(4) for m in range(6)],
            {},
            "",
        ),
        (
            [(f"u{n}", f"i{m}", 2 + 3 * (m % 2), int(m == 5)) for n in range(4) for m in range(6)],
            {},
            r"^33% of the ratings are no samples, since .* Change samples\.strict_ties\.$",
        ),
    ],
)
def test_what_looks_wrong_is_told_with_its_key(log: Any, changes: dict[str, Any], words: str) -> None:
    found = told(facts_of(log, **changes))
    assert re.search(words, found) if words else found == "", found


def test_the_screen_is_one_screen() -> None:
    facts = facts_of(LOG)
    lines = look_lines(facts)
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 100
    place = lines.index("  ─  likes are above 3 (samples.threshold changes it)")
    assert lines[place - 1].split() == ["3", "█" * 40, "4", "33.3%"]
    assert lines[place + 1].split() == ["4", "█" * 20, "2", "16.7%"]
    assert "none                 6   ratings are no samples: they make up histories" in lines
    assert "  G  The films a viewer rated, oldest first: ⏎ Film 1 (1990) [War]: liked ⏎ Film 2 (1990) [War]:" in lines


def test_a_long_history_shows_its_beginning_and_its_newest_items() -> None:
    log = [("ann", f"i{n % 8}", 2 + 3 * (n % 2), n) for n in range(80)]
    lines = look_lines(facts_of(log, prompts=PromptSettings(max_history=30)))
    start = next(place for place, line in enumerate(lines) if line.startswith("  G  "))
    text = " ".join(line.strip() for line in lines[start : start + 3])
    assert re.match(r"G  The films a viewer rated, oldest first: ⏎ … 2\d more … ⏎ Film", text)
    assert text.endswith("⏎ Film 5 (1990) [War]: liked")
    assert lines[start + 3] == "  V  the same"


def test_control_characters_of_titles_are_shown() -> None:
    page = "\n".join(look_lines(facts_of(LOG, title=pl.lit("\x1b[31mRed\r"))))
    assert "\x1b" not in page
    assert r"\x1b[31mRed" in page


def test_counts_in_plain_words() -> None:
    counts = {"samples": 5, "threshold": 3.0, "bad_rows": 2, "ratings_read": 9, "odd_count": 1, "text": "none"}
    assert told_counts(counts) == [
        ("ratings read", 9.0),
        ("left out: rows of the ratings that can't be read", 2.0),
        ("labelled samples", 5.0),
        ("odd count", 1.0),
    ]
    (loss,) = left_out(counts)
    assert (loss.count, loss.key) == (2, "dataset.init_args.bad_rows")
