"""A guess among candidates; who asked for it can be asked where two are close."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

CLOSE = 1.5
"""Scores that differ by less than this are close."""


class Candidate(NamedTuple):
    """What a guess could be, how much speaks for it, and why, in a few words."""

    value: Any
    score: float
    why: str


Choose = Callable[[str, Sequence[Candidate]], Candidate]
"""Takes one of several close candidates, the best first, given what is asked."""


def decide(question: str, candidates: Iterable[Candidate], choose: Choose) -> Candidate | None:
    """The best candidate, or the one that is chosen among those close to it; None where there is none."""
    ranked = sorted(candidates, key=lambda each: -each.score)
    close = [each for each in ranked if ranked[0].score - each.score < CLOSE]
    return choose(question, close) if len(close) > 1 else next(iter(close), None)
