"""The report's figures: intervals, intervals by round, curves, histograms, reliability, bars. Each is one SVG panel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from trackrec.report.render.document import Num, Unit
from trackrec.report.render.svg import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    element,
    line,
    panel,
    room,
    ticks,
    words,
    x_axis,
    y_axis,
)

_HEIGHT = 214
_GUTTER = 106
_MOST_POINTS = 80
_LEAST: dict[Unit, float] = {"score": 0.01, "signed": 0.002, "share": 0.1, "one": 1.0, "count": 1.0}


class Reference(NamedTuple):
    """A level to compare with: chance, a ceiling."""

    name: str
    level: Num


class Bin(NamedTuple):
    """Rows with similar predictions: their mean prediction, and how often the label was 1."""

    confidence: float
    frequency: Num


def forest(title: str, rows: Sequence[tuple[str, Num]], lower_is_better: bool = False) -> Markup:
    """Differences with their intervals, one under the other, around a line at zero."""
    above, below = ("bad", "good") if lower_is_better else ("good", "bad")
    ends = [end for _, num in rows for end in (num.low, num.high, num.value)]
    low, high = room([*ends, 0.0])
    low, high = min(low, -0.05 * high), max(high, -0.05 * low)
    height = TOP + 46 * len(rows) + BOTTOM
    x = Scale(low, high, 8, WIDTH - 8)
    bottom = height - BOTTOM
    parts = [line(x(0), TOP - 8, x(0), bottom, "zero"), *x_axis(x, ticks(low, high), bottom)]
    for index, (name, num) in enumerate(rows):
        y = TOP + 46 * index + 10
        tone = above if num.low > 0 else below if num.high < 0 else "open"
        parts.append(words(8, y, name, "row-name"))
        parts.append(words(WIDTH - 8, y, num.text, "row-value", "end"))
        parts.extend(_whisker(x(num.low), y + 15, x(num.high), y + 15, tone))
        parts.append(_dot(x(num.value), y + 15, tone))
    label = "; ".join(f"{name}: {num.text} {num.interval}" for name, num in rows)
    return panel(title, label, height, parts)


def by_round(
    title: str,
    groups: Sequence[str],
    points: Sequence[Num | None],
    lines: Sequence[Reference] = (),
    axis: str = "round",
) -> Markup:
    """One point with its interval per round.

    Args:
        title: what is measured.
        groups: names of the rounds, left to right.
        points: one number per group, None if there is none.
        lines: levels drawn as horizontal lines, with a band for an interval. Their names are in a gutter at the right.
        axis: what the groups are.
    """
    shown = [num for num in points if num is not None and math.isfinite(num.value)]
    y = _by_round_scale([*shown, *(reference.level for reference in lines)])
    end = WIDTH - RIGHT - (_GUTTER if lines else 0)
    step = (end - LEFT) / len(groups)
    parts = [*y_axis(y, ticks(y.low, y.high, 4), share=any(num.unit == "share" for num in shown)), *_levels(y, lines)]
    parts.append(words(end, _HEIGHT - BOTTOM + 33, axis, "axis-name", "end"))
    for index, (name, num) in enumerate(zip(groups, points, strict=True)):
        x = LEFT + step * (index + 0.5)
        parts.append(words(x, _HEIGHT - BOTTOM + 18, name, anchor="middle"))
        if num is not None and math.isfinite(num.value):
            parts.extend(_whisker(x, y(num.low), x, y(num.high), "s0"))
            parts.append(_dot(x, y(num.value), "s0"))
    labels = [f"{name}: {num.text} {num.interval}" for name, num in zip(groups, points, strict=True) if num]
    labels += [f"{reference.name}: {reference.level.text}" for reference in lines]
    return panel(title, "; ".join(labels), _HEIGHT, parts)


def _by_round_scale(nums: Sequence[Num]) -> Scale:
    """Room for every interval, not below zero unless a value is; a minimum range keeps noise from looking large."""
    ends = [end for num in nums for end in (num.low, num.high, num.value) if math.isfinite(end)]
    unit = nums[0].unit if nums else "score"
    low, high = room(ends, least=_LEAST[unit])
    if ends and min(ends) >= 0:
        low = max(low, 0.0)
    return Scale(low, high, _HEIGHT - BOTTOM, TOP)


def curves(
    title: str, series: Sequence[Sequence[tuple[float, float]]], zero: bool = False, share: bool = False
) -> Markup:
    """Lines over optimizer steps; long ones are drawn as means of consecutive points.

    Args:
        title: what is drawn.
        series: per line its (step, value) points in order.
        zero: draw the level 0.
        share: the values are shares of one.
    """
    drawn = [_thin(points) for points in series]
    values = [value for points in drawn for _, value in points]
    low, high = room([*values, *([0.0] if zero else [])], least=0.1 if share else 0.01)
    steps = [step for points in drawn for step, _ in points] or [0.0]
    if values and min(values) >= 0:
        low = max(low, 0.0)
    y = Scale(low, high, _HEIGHT - BOTTOM, TOP)
    x = Scale(0, max(*steps, 1), LEFT, WIDTH - RIGHT)
    parts = [
        *y_axis(y, ticks(low, high, 4), share),
        *x_axis(x, ticks(0, x.high, 5, whole=True), _HEIGHT - BOTTOM, "step"),
    ]
    if zero:
        parts.append(line(LEFT, y(0), WIDTH - RIGHT, y(0), "zero"))
    for order, points in enumerate(drawn):
        path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
        parts.append(element("polyline", points=path, class_=f"curve s{order % 5}"))
        parts.extend(_dot(x(step), y(value), f"s{order % 5}", 2.0) for step, value in points if len(points) <= 24)
    label = "; ".join(
        f"from {p[0][1]:.3f} to {p[-1][1]:.3f} in {len(full)} steps" for p, full in zip(drawn, series, strict=True) if p
    )
    return panel(title, label, _HEIGHT, parts)


def histogram(
    title: str, values: Sequence[float], edges: Sequence[float], most: float, name: str, order: int = 0
) -> Markup:
    """Shares of values by bin, with a line at their mean.

    Args:
        title: which values.
        values: the values.
        edges: bin edges, the same for all panels that are read together.
        most: the highest share of the y axis, the same for all panels that are read together.
        name: of the values' axis.
        order: number of its colour.
    """
    shares = np.histogram(values, edges)[0] / max(1, len(values))
    x = Scale(edges[0], edges[-1], LEFT, WIDTH - RIGHT)
    y = Scale(0, most, _HEIGHT - BOTTOM, TOP)
    parts = y_axis(y, ticks(0, most, 4), share=True)
    for left, right, share in zip(edges, edges[1:], shares, strict=False):
        top = y(float(share))
        size: dict[str, Any] = {
            "x": x(left) + 0.5,
            "y": top,
            "width": max(0.5, x(right) - x(left) - 1),
            "height": y(0) - top,
        }
        parts.append(element("rect", class_=f"bar s{order % 5}", **size))
    parts.extend(x_axis(x, ticks(edges[0], edges[-1]), _HEIGHT - BOTTOM, name))
    label = "no values"
    if len(values):
        mean = float(np.mean(values))
        parts.append(line(x(mean), TOP, x(mean), _HEIGHT - BOTTOM, "mean"))
        label = f"{len(values):,} values between {min(values):.3f} and {max(values):.3f}, mean {mean:.3f}"
    return panel(title, label, _HEIGHT, parts)


def reliability(title: str, bins: Sequence[Bin], order: int = 0) -> Markup:
    """How often the label was 1 against P(Yes); a calibrated V is on the diagonal. A dot's area grows with its rows."""
    height = WIDTH - LEFT + TOP
    x = Scale(0, 1, LEFT, WIDTH - RIGHT)
    y = Scale(0, 1, height - BOTTOM, TOP)
    marks = [0.0, 0.25, 0.5, 0.75, 1.0]
    parts = [*y_axis(y, marks), *x_axis(x, marks, height - BOTTOM, "P(Yes)"), line(x(0), y(0), x(1), y(1), "zero")]
    most = max((entry.frequency.n or 0 for entry in bins), default=1)
    for entry in bins:
        num = entry.frequency
        parts.extend(_whisker(x(entry.confidence), y(num.low), x(entry.confidence), y(num.high), f"s{order % 5}"))
        radius = 2.5 + 5 * math.sqrt((num.n or 0) / most)
        parts.append(_dot(x(entry.confidence), y(num.value), f"s{order % 5}", radius))
    label = "; ".join(f"P(Yes) {entry.confidence:.2f}, liked {entry.frequency.text}" for entry in bins)
    return panel(title, label, height, parts)


def bars(title: str, rows: Sequence[tuple[str, float, str]]) -> Markup:
    """Amounts as bars: (name, amount, the amount as text)."""
    height = TOP + 34 * len(rows) + 4
    most = max((amount for _, amount, _ in rows), default=0) or 1
    parts = []
    for index, (name, amount, text) in enumerate(rows):
        y = TOP + 34 * index + 8
        parts.append(words(0, y, name, "row-name"))
        parts.append(words(WIDTH, y, text, "row-value", "end"))
        parts.append(element("rect", x=0, y=y + 6, width=WIDTH, height=7, rx=3.5, class_="track"))
        parts.append(
            element("rect", x=0, y=y + 6, width=max(1.0, WIDTH * amount / most), height=7, rx=3.5, class_="bar s0")
        )
    return panel(title, "; ".join(f"{name}: {text}" for name, _, text in rows), height, parts)


def _levels(y: Scale, lines: Sequence[Reference]) -> list[str]:
    """Horizontal lines, with names that don't overlap."""
    parts: list[str] = []
    last = -math.inf
    for name, num in sorted(lines, key=lambda reference: -reference.level.value):
        if math.isfinite(num.low) and math.isfinite(num.high):
            top = y(num.high)
            size: dict[str, Any] = {"x": LEFT, "y": top, "width": WIDTH - LEFT - RIGHT, "height": y(num.low) - top}
            parts.append(element("rect", class_="band", **size))
        parts.append(line(LEFT, y(num.value), WIDTH - RIGHT, y(num.value), "reference"))
        last = max(y(num.value) - 5, last + 14)
        parts.append(words(WIDTH - RIGHT, last, name, "reference-name", "end"))
    return parts


def _whisker(x1: float, y1: float, x2: float, y2: float, kind: str) -> list[str]:
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        return []
    return [line(x1, y1, x2, y2, f"whisker {kind}")]


def _dot(x: float, y: float, kind: str, radius: float = 4.0) -> str:
    return element("circle", cx=x, cy=y, r=radius, class_=f"dot {kind}")


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `_MOST_POINTS` points: means of equally many consecutive ones."""
    finite = [(step, value) for step, value in points if math.isfinite(value)]
    if len(finite) <= _MOST_POINTS:
        return finite
    return [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in np.array_split(finite, _MOST_POINTS)]
