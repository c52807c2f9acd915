"""Guesses on single columns and texts, beside the whole files of `test_init`."""

from __future__ import annotations

import polars as pl
import pytest

from trackrec.interactions.guess.domain import guess_domain
from trackrec.interactions.guess.layout import guess_layout, is_header
from trackrec.interactions.guess.look import Column
from trackrec.interactions.guess.names import tokens
from trackrec.interactions.guess.scale import guess_scale
from trackrec.interactions.guess.times import fitting_units


def column(values: list[object], name: str = "rating") -> Column:
    return Column(name, 0, pl.Series(name, [str(value) for value in values]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b,c\n1,2,3\n", (",", '"', None, 3)),
        ("a;b;c\n1;2,5;3\n", (";", '"', None, 3)),
        ("1::2::3\n4::5::6\n", ("::", '"', None, 3)),
        ("1\t2\t3\n4\t5\t6\n", ("\t", None, None, 3)),
        ('1\tThe "Best"\t3\n4\tx\t6\n', ("\t", None, None, 3)),
        ('a,b\n1,"x, ""y"""\n', (",", '"', None, 2)),
        ('"a";"b"\n"1";"x \\"y\\"; z"\n', (";", '"', "\\", 2)),
        ("user,when\n1,2020-01-01 10:00:00\n", (",", '"', None, 2)),
        ("7 8 5\n7 9 3\n", (" ", '"', None, 3)),
    ],
)
def test_separator_quote_and_escape(text: str, expected: tuple[object, ...]) -> None:
    found = guess_layout(text)
    assert found is not None
    assert (found.separator, found.quote, found.escape, found.width) == expected


def test_no_separator() -> None:
    assert guess_layout("one\ntwo\n") is None


@pytest.mark.parametrize(
    ("rows", "header"),
    [
        ([["user", "stars"], ["ann", "5"]], True),
        ([["user", "item"], ["ann", "b1"]], True),
        ([["ann", "5"], ["bob", "4"]], False),
        ([["ann", "b1"], ["ann", "b2"]], False),
    ],
)
def test_header(rows: list[list[str]], header: bool) -> None:
    assert is_header(rows[0], rows[1:]) is header


@pytest.mark.parametrize(
    ("values", "threshold"),
    [
        ([1, 2, 3, 4, 5], 3.0),
        ([0.5, 2.5, 4.5], 3.0),
        ([2, 4, 6, 8, 10], 6.0),
        ([1, 2, 3, 4], 2.0),
        ([1, 2, 3], 2.0),
        ([-1, 0, 1], 0.0),
        ([10, 60, 90, 100], 60.0),
    ],
)
def test_a_scale_is_liked_above_three_fifths_of_its_top(values: list[object], threshold: float) -> None:
    found = column(values)
    assert found.numbers is not None
    scale = guess_scale(found, found.numbers)
    assert ([each.value for each in scale.thresholds], scale.amount, scale.missing) == ([threshold], False, None)


def test_the_scale_says_why() -> None:
    found = column([0, 8, 8, 10, 3, 5, 7, 8, 2, 6])
    assert found.numbers is not None
    scale = guess_scale(found, found.numbers)
    # 0 is no grade: six of the nine others are above 6, three of them 8.
    assert scale.missing == 0.0
    assert scale.thresholds[0].why == "2 to 10, most frequent 8: liked above 6"


def test_where_nearly_all_are_likes_the_middle_grade_is_close() -> None:
    found = column([5] * 60 + [4] * 35 + [3] * 5)
    assert found.numbers is not None
    assert [each.value for each in guess_scale(found, found.numbers).thresholds] == [3.0, 4.0]


def test_counts_are_liked_above_their_median() -> None:
    found = column([1, 3, 3, 50, 1200], "plays")
    assert found.numbers is not None
    scale = guess_scale(found, found.numbers)
    assert (scale.thresholds[0].value, scale.amount) == (3.0, True)


@pytest.mark.parametrize(
    ("values", "units"),
    [
        ([1_500_000_000, 1_600_000_000], ["s"]),
        ([1_500_000_000_000], ["ms"]),
        ([1_500_000_000_000_000], ["us"]),
        (["2020-01-31", "2020-02-01"], ["iso"]),
        (["2020-01-31T10:00:00Z"], ["iso"]),
        (["31.01.2020 10:00"], ["%d.%m.%Y %H:%M"]),
        (["01/31/2020"], ["%m/%d/%Y"]),
        (["01/02/2020"], ["%m/%d/%Y", "%d/%m/%Y"]),
        (["20200131"], ["%Y%m%d"]),
        ([3, 4, 5], []),
        (["Tuesday"], []),
    ],
)
def test_units_of_times(values: list[object], units: list[str]) -> None:
    assert [each.unit for each in fitting_units(column(values, "when"))] == units


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unixReviewTime", ["unix", "review", "time"]),
        ("User-ID", ["user", "id"]),
        ("parent_asin", ["parent", "asin"]),
        ("movieId", ["movie", "id"]),
    ],
)
def test_the_words_of_a_name(name: str, words: list[str]) -> None:
    assert tokens(name) == words


def test_a_product_in_a_file_of_games_is_a_game() -> None:
    assert guess_domain("product_id", ["steam_reviews.json"], []).item == "game"
    assert guess_domain("product_id", ["log.csv"], []).item == "product"
    assert guess_domain("thing", ["log.csv"], ["n"]).item == "item"
