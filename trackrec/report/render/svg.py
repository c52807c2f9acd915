"""The SVG parts of figures: scales, ticks, axes, and a panel with a label for screen readers.

A panel is 340 units wide, about the width of a phone, so that its text has the same size on every screen. Colours are
classes of the page's style sheet (``s0`` ... ``s4`` for series), which has a light and a dark set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

from markupsafe import Markup

WIDTH = 340
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 34, 36


class Scale(NamedTuple):
    """Maps [low, high] to [start, end] of the drawing."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where a value is drawn."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def element(tag: str, content: str | None = None, **attributes: object) -> str:
    """One element; ``class_`` becomes ``class``, underscores become hyphens, floats are rounded to two decimals.

    The attributes are escaped here; ``content`` is markup already.
    """
    parts = []
    for name, value in attributes.items():
        shown = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
        parts.append(f' {name.rstrip("_").replace("_", "-")}="{escape(shown)}"')
    head = f"<{tag}{''.join(parts)}"
    return f"{head}/>" if content is None else f"{head}>{content}</{tag}>"


def words(x: float, y: float, text: str, kind: str = "tick", anchor: str = "start") -> str:
    """A line of text; it is escaped here."""
    return element("text", escape(text), x=x, y=y, class_=kind, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def panel(title: str, label: str, height: float, parts: Sequence[str]) -> Markup:
    """An SVG element with its heading.

    It goes into the page as it is: every part comes from `element`, which escapes the attributes, and every text from
    `words`, which escapes it.

    Args:
        title: the heading that is drawn.
        label: for screen readers: what is drawn, and its numbers.
        height: in units.
        parts: the elements.
    """
    heading = words(0, 14, title, "panel-title")
    drawing = element(
        "svg",
        heading + "".join(parts),
        viewBox=f"0 0 {WIDTH} {height:.0f}",
        role="img",
        aria_label=f"{title}. {label}",
        xmlns="http://www.w3.org/2000/svg",
    )
    return Markup(drawing)


def ticks(low: float, high: float, most: int = 5, whole: bool = False) -> list[float]:
    """At most ``most`` round numbers within [low, high], integers where ``whole``."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    steps = (factor * power for factor in (1, 2, 2.5, 5, 10, 20, 25, 50))
    for step in steps:
        if whole and step % 1:
            continue
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            break
    return [round(number * step, 12) for number in range(first, last + 1)]


def tick_text(value: float, others: Sequence[float], share: bool = False) -> str:
    """A tick with as many decimals as its neighbours need; a share is written in percent."""
    if share:
        return tick_text(100 * value, [100 * other for other in others]) + " %"
    gap = min((b - a for a, b in pairwise(others)), default=abs(value) or 1.0)
    decimals = next((d for d in range(12) if abs(gap * 10**d - round(gap * 10**d)) < 1e-6 * 10**d * gap), 12)
    return f"{value:,.{decimals}f}".replace("-", "−")


def room(values: Sequence[float], share: float = 0.08, least: float = 1e-3) -> tuple[float, float]:
    """The range of finite values with some room at both ends; [0, 1] if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    extra = max(share * (high - low), least / 2)
    return low - extra, high + extra


def y_axis(scale: Scale, marks: Sequence[float], share: bool = False) -> list[str]:
    """Grid lines with their numbers at the left."""
    parts = []
    for mark in marks:
        y = scale(mark)
        parts.append(line(LEFT, y, WIDTH - RIGHT, y, "grid"))
        parts.append(words(LEFT - 6, y + 4, tick_text(mark, marks, share), anchor="end"))
    return parts


def x_axis(scale: Scale, marks: Sequence[float], y: float, name: str = "") -> list[str]:
    """Numbers under the drawing, and the name of the axis."""
    parts = [line(scale.start, y, scale.end, y, "axis")]
    for mark in marks:
        parts.append(line(scale(mark), y, scale(mark), y + 4, "axis"))
        parts.append(words(scale(mark), y + 16, tick_text(mark, marks), anchor="middle"))
    if name:
        parts.append(words(scale.end, y + 31, name, "axis-name", "end"))
    return parts
