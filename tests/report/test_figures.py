"""The drawing: round ticks, points where their numbers are, and nothing that breaks on odd input."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackrec.report.render.document import Num
from trackrec.report.render.figures import Bin, Reference, bars, by_round, curves, forest, histogram, reliability
from trackrec.report.render.svg import WIDTH, Scale, element, room, tick_text, ticks

numbers = st.floats(-1e6, 1e6)


@settings(max_examples=200, deadline=None, database=None)
@given(numbers, st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_are_few_even_and_inside(low: float, width: float, most: int) -> None:
    high = low + width
    marks = ticks(low, high, most)
    assert len(marks) <= most
    slack = 1e-6 * (width + abs(low))
    assert all(low - slack <= mark <= high + slack for mark in marks)
    gaps = [b - a for a, b in pairwise(marks)]
    assert max(gaps, default=0) - min(gaps, default=0) <= slack
    if most >= 4:
        assert len(marks) >= 1


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (-0.011, 0.012, ["−0.010", "−0.005", "0.000", "0.005", "0.010"]),
        (0, 0.1, ["0.000", "0.025", "0.050", "0.075", "0.100"]),
        (0, 23, ["0", "5", "10", "15", "20"]),
        (0, 4200, ["0", "1,000", "2,000", "3,000", "4,000"]),
    ],
)
def test_ticks_by_hand(low: float, high: float, texts: list[str]) -> None:
    marks = ticks(low, high, 6 if high == 1 else 5)
    assert [tick_text(mark, marks) for mark in marks] == texts


def test_steps_are_whole_numbers() -> None:
    assert ticks(0, 12, 5, whole=True) == [0, 5, 10]
    assert ticks(0, 2, 5, whole=True) == [0, 1, 2]
    assert ticks(0, 1, 5, whole=True) == [0, 1]


def test_shares_are_written_in_percent() -> None:
    assert [tick_text(mark, [0.0, 0.025], share=True) for mark in (0.0, 0.025)] == ["0.0 %", "2.5 %"]


def test_a_range_has_room_and_width() -> None:
    assert room([0.0, 1.0]) == (-0.08, 1.08)
    assert room([2.0], least=0.5) == (1.75, 2.25)
    assert room([]) == (0.0, 1.0)
    assert room([float("nan"), 1.0, float("inf")]) == room([1.0])


def test_an_element_escapes_what_it_is_given() -> None:
    assert element("text", "a&lt;b", class_="x", text_anchor="end") == '<text class="x" text-anchor="end">a&lt;b</text>'
    assert element("line", x1=0.5, y1=2.0, name='"<') == '<line x1="0.5" y1="2" name="&quot;&lt;"/>'


def parse(svg: str) -> ElementTree.Element:
    """Well-formed, within its width."""
    root = ElementTree.fromstring(svg)
    assert root.attrib["viewBox"].startswith(f"0 0 {WIDTH} ")
    assert "nan" not in svg
    for mark in root.iter():
        for name in ("x", "cx", "x1", "x2"):
            assert -1 <= float(mark.attrib.get(name, 0)) <= WIDTH + 1
    return root


def circles(root: ElementTree.Element) -> list[dict[str, str]]:
    return [mark.attrib for mark in root.iter() if mark.tag.endswith("circle")]


def test_points_stand_where_their_numbers_are() -> None:
    """Of two values the larger stands higher, by as much as the scale says; intervals reach their ends."""
    root = parse(
        by_round("V <AUC>", ["0", "1"], [Num(0.5, 0.4, 0.6), Num(0.6, 0.5, 0.7)], [Reference("chance", Num(0.5))])
    )
    low, high = (float(mark["cy"]) for mark in circles(root))
    assert low > high
    lines = [mark.attrib for mark in root.iter() if "whisker" in mark.attrib.get("class", "")]
    assert float(lines[0]["y2"]) == pytest.approx(high)  # the first interval ends at .6
    reference = next(mark.attrib for mark in root.iter() if mark.attrib.get("class") == "reference")
    assert float(reference["y1"]) == pytest.approx(low)
    assert root.attrib["aria-label"] == "V <AUC>. 0: .5000 [.4000, .6000]; 1: .6000 [.5000, .7000]; chance: .5000"


def test_names_of_close_levels_keep_clear() -> None:
    levels = [Reference("a", Num(0.5)), Reference("b", Num(0.501)), Reference("c", Num(0.502))]
    root = parse(by_round("x", ["0"], [Num(0.4, 0.3, 0.6)], levels))
    names = [mark.attrib for mark in root.iter() if mark.attrib.get("class") == "reference-name"]
    assert all(float(b["y"]) - float(a["y"]) >= 13.9 for a, b in pairwise(names))


def test_a_difference_is_coloured_by_its_interval() -> None:
    rows = [("a", Num(0.2, 0.1, 0.3)), ("b", Num(0.0, -0.1, 0.1)), ("c", Num(-0.2, -0.3, -0.1))]
    root = parse(forest("t", rows))
    assert [mark["class"] for mark in circles(root)] == ["dot good", "dot open", "dot bad"]
    zero = next(mark.attrib for mark in root.iter() if mark.attrib.get("class") == "zero")
    assert [float(mark["cx"]) - float(zero["x1"]) > 0.1 for mark in circles(root)] == [True, False, False]


def test_a_gap_and_a_number_without_interval_are_drawn() -> None:
    root = parse(by_round("t", ["0", "1", "2"], [None, Num(0.0, unit="share"), Num(float("nan"))]))
    assert len(circles(root)) == 1


def test_long_curves_are_thinned_by_means() -> None:
    svg = curves("t", [[(float(step), float(step % 2)) for step in range(1000)], [], [(0.0, float("nan"))]])
    root = parse(svg)
    (first, *rest) = [mark.attrib["points"].split() for mark in root.iter() if mark.tag.endswith("polyline")]
    assert len(first) == 80
    assert rest == [[], []]
    assert "in 1000 steps" in root.attrib["aria-label"]


def test_a_histograms_bars_are_shares() -> None:
    root = parse(histogram("t", [0.1, 0.1, 0.9, 0.1], [0.0, 0.5, 1.0], 1.0, "reward"))
    heights = [float(mark.attrib["height"]) for mark in root.iter() if "bar" in mark.attrib.get("class", "")]
    assert heights[0] == pytest.approx(3 * heights[1])
    assert "4 values between 0.100 and 0.900, mean 0.300" in root.attrib["aria-label"]
    parse(histogram("t", [], [0.0, 1.0], 1.0, "reward"))


def test_a_right_v_stands_on_the_diagonal() -> None:
    root = parse(reliability("t", [Bin(0.25, Num(0.25, 0.2, 0.3, 10)), Bin(0.8, Num(0.8, 0.7, 0.9, 40))]))
    diagonal = next(mark.attrib for mark in root.iter() if mark.attrib.get("class") == "zero")
    x1, y1, x2, y2 = (float(diagonal[name]) for name in ("x1", "y1", "x2", "y2"))
    for mark in circles(root):
        share = (float(mark["cx"]) - x1) / (x2 - x1)
        assert (float(mark["cy"]) - y1) / (y2 - y1) == pytest.approx(share, abs=1e-3)
    assert float(circles(root)[1]["r"]) > float(circles(root)[0]["r"])


def test_bars_are_as_long_as_their_amounts() -> None:
    root = parse(bars("t", [("a", 4.0, "4 s"), ("b", 1.0, "1 s"), ("c", 0.0, "0 s")]))
    widths = [float(mark.attrib["width"]) for mark in root.iter() if mark.attrib.get("class") == "bar s0"]
    assert widths == [WIDTH, WIDTH / 4, 1.0]


def test_a_scale_maps_ends_to_ends() -> None:
    scale = Scale(2, 4, 100, 0)
    assert [scale(2), scale(3), scale(4)] == [100, 50, 0]


def test_names_are_escaped() -> None:
    for svg in (forest("<t>", [("<a>", Num(0.1, 0, 1))]), bars("<t>", [("<a>", 1.0, "<b>")])):
        assert not re.search("<[tab]>", svg)
        parse(svg)
