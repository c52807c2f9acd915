"""The generator's (G's) texts: diversity, length, cut share, names that aren't in the history, and twenty examples."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from trackrec.metrics.intervals import user_bootstrap
from trackrec.metrics.texts import distinct_n
from trackrec.prompts.book import PromptBook
from trackrec.prompts.grounding import ClaimChecker, Mention, normal_form
from trackrec.prompts.settings import PromptSettings
from trackrec.prompts.templates import Rated, describe, history_facts, newest
from trackrec.recipe.names import TEACHER, in_round
from trackrec.report.numbers import RunNumbers, as_num
from trackrec.report.render.document import (
    Block,
    Cell,
    Example,
    Figure,
    Missing,
    Num,
    Paragraph,
    Section,
    Span,
    TableBlock,
    Unit,
    sentence,
)
from trackrec.report.render.figures import by_round
from trackrec.report.sections.rounds import round_name
from trackrec.storage.atomic import stable_hash

EXAMPLES = 20
_MOST_TEXTS = 500  # per round, chosen by hash: the report is written at the end of every fit
_RESAMPLES = 500
_COLUMNS = ("history_id", "text", "finish_reason")


class Written(NamedTuple):
    """One text, and whether it was cut at the length limit."""

    text: str
    cut: bool


class Writing:
    """The texts of a run: the teacher's and each round's greedy ones, with the histories that they are about.

    The fixed text about empty histories, which nobody wrote, is left out.

    Args:
        run: the run.
    """

    def __init__(self, run: RunNumbers) -> None:
        self.run = run
        stages = {TEACHER: TEACHER, round_name(0): in_round(0, "greedy")}
        stages |= {round_name(number): in_round(number, "greedy") for number in range(1, run.rounds + 1)}
        tables = {name: run.table(stage, "reccots", _COLUMNS) for name, stage in stages.items()}
        self.texts: dict[str, dict[str, Written]] = {
            name: {
                key: Written(text, reason == "length")
                for key, text, reason in table.iter_rows()
                if key not in run.empty_histories
            }
            for name, table in tables.items()
            if table is not None
        }

    @property
    def rounds(self) -> list[str]:
        """Names of the rounds that have texts."""
        return [name for name in self.texts if name != "teacher"]

    @cached_property
    def common(self) -> list[str]:
        """Histories with a text in every round that has any, at most `_MOST_TEXTS`, in the order of a hash."""
        sets = [set(self.texts[name]) for name in self.rounds]
        return by_hash(set.intersection(*sets) if sets else set())[:_MOST_TEXTS]

    @cached_property
    def examples(self) -> list[str]:
        """Histories to show: those with most texts first, then in the order of a hash, so that none is hand-picked."""
        counts = Counter(key for texts in self.texts.values() for key in texts)
        return sorted(counts, key=lambda key: (-counts[key], _hash(key)))[:EXAMPLES]

    def measured(self, name: str) -> list[str]:
        """Histories on which the texts of a round, or of the teacher, are measured."""
        if name != "teacher":
            return self.common
        return by_hash(self.texts[name])[: len(self.common) or _MOST_TEXTS]

    @cached_property
    def book(self) -> PromptBook:
        """Histories and items of the texts that are measured or shown; no others are read."""
        return self.run.book({*self.examples, *(key for name in self.texts for key in self.measured(name))})

    @cached_property
    def settings(self) -> PromptSettings:
        """Words and limits of the prompts that G read."""
        return self.run.prompts.for_generator()

    @cached_property
    def checker(self) -> ClaimChecker:
        """Finds names of the catalogue in the texts that are measured or shown."""
        keys = {name: [*self.measured(name), *self.examples] for name in self.texts}
        return self.run.claim_checker(
            self.texts[name][key].text for name in keys for key in keys[name] if key in self.texts[name]
        )

    def shown(self, history_id: str) -> Sequence[Rated]:
        """The part of a history that is in G's prompt."""
        return newest(self.book.history(history_id), self.settings)


def writing_section(writing: Writing) -> Section:
    """Diversity, length, cut share and unsupported claims, for the teacher and every round."""
    title = "What G writes"
    if not writing.rounds or not writing.common:
        return Section("writing", title, [Missing("G has written no text yet: run `trackrec fit`.")])
    measures = {name: _measures(writing, name) for name in writing.texts}
    rows: list[list[Cell]] = [
        [name if name == "teacher" else f"round {name}", *nums.values(), Num(len(writing.measured(name)), unit="count")]
        for name, nums in measures.items()
    ]
    heads = next(iter(measures.values()))
    table = TableBlock(
        f"Greedy texts about the {len(writing.common)} histories that have one in every round (and as many of the "
        "teacher's). distinct-2: distinct word pairs over all word pairs. Unsupported: titles and genres of the "
        "catalogue that a text names and that aren't in the history that G read. Intervals are 95 %, over texts.",
        ("texts of", *heads, "texts"),
        rows,
    )
    panels = [
        by_round(
            sentence(name), [label.split(",")[0] for label in measures], [nums[name] for nums in measures.values()]
        )
        for name in heads
    ]
    caption = (
        "If distinct-2 falls, the texts become alike; if words or cut texts increase, they become long. If unsupported "
        "names increase with the reward, G learns to raise V's scores with invented names."
    )
    return Section("writing", title, [Figure(caption, panels, table)])


def _measures(writing: Writing, name: str) -> dict[str, Num]:
    keys = writing.measured(name)
    written = [writing.texts[name][key] for key in keys]
    texts = [entry.text for entry in written]
    checks = [writing.checker.check(text, writing.book.evidence(key)) for key, text in zip(keys, texts, strict=True)]
    claims = [check.claims for check in checks]
    return {
        "distinct-2": distinct_interval(texts),
        "words": _over_texts([len(text.split()) for text in texts], unit="one"),
        "cut": _over_texts([entry.cut for entry in written], unit="share"),
        "names a text": _over_texts(claims, unit="one"),
        "unsupported": _over_texts([check.unsupported for check in checks], claims, unit="share"),
    }


def distinct_interval(texts: Sequence[str], n: int = 2) -> Num:
    """`distinct_n` with an interval of 1.96 jackknife standard errors over texts.

    A bootstrap would repeat texts, and the n-grams of a repeated text are never distinct.
    """
    value = distinct_n(texts, n)
    grams = [Counter(zip(*(text.lower().split()[start:] for start in range(n)), strict=False)) for text in texts]
    texts_with = Counter(gram for counts in grams for gram in counts)
    total = sum(sum(counts.values()) for counts in grams)
    # distinct_n without one text: the n-grams that no other text has go with it.
    leave_one_out = np.array(
        [
            (len(texts_with) - sum(texts_with[gram] == 1 for gram in counts)) / (total - sum(counts.values()))
            for counts in grams
            if total > sum(counts.values())
        ]
    )
    size = len(leave_one_out)
    if size < 2:
        return Num(value, n=len(texts))
    error = math.sqrt((size - 1) / size * float(((leave_one_out - leave_one_out.mean()) ** 2).sum()))
    return Num(value, max(0.0, value - 1.96 * error), min(1.0, value + 1.96 * error), len(texts))


def _over_texts(numerators: Sequence[float], denominators: Sequence[float] | None = None, unit: Unit = "one") -> Num:
    """Sum of numerators over sum of denominators (default: 1 per text), with an interval over texts."""
    upper = np.asarray(numerators, np.float64)
    lower = np.ones_like(upper) if denominators is None else np.asarray(denominators, np.float64)
    if not lower.sum():
        return Num(math.nan, n=len(upper), unit=unit)

    def ratio(a: np.ndarray, b: np.ndarray) -> float:
        return float(a.sum() / b.sum()) if b.sum() else math.nan

    return as_num(user_bootstrap(ratio, np.arange(len(upper)), upper, lower, n_resamples=_RESAMPLES), unit)


# -- side by side -------------------------------------------------------------------------------------------------


def examples_section(writing: Writing) -> Section:
    """Twenty users: the history that G read, and the texts of the teacher and of G in each round."""
    title = f"{EXAMPLES} users' texts, side by side"
    if not writing.texts:
        return Section("texts", title, [Missing("There is no text yet: run `trackrec fit`.")])
    attributes = "with attributes" if writing.settings.history_attributes else "without attributes"
    lead = Paragraph(
        f"The history lists the {writing.settings.items} that G read, {attributes}. Marked names are in the catalogue "
        "but not in that history; names that aren't in the catalogue are not found. The users are not hand-picked: "
        "those with most texts come first, then the order is that of a hash."
    )
    blocks: list[Block] = [lead, *(_example(writing, key) for key in writing.examples)]
    return Section("texts", title, blocks)


def _example(writing: Writing, key: str) -> Example:
    settings = writing.settings
    history = writing.shown(key)
    lines = [(describe(entry.item, settings, True), entry.liked) for entry in history]
    texts: list[tuple[str, list[Span]]] = []
    for name, by_history in writing.texts.items():
        label = name if name == "teacher" else f"round {name}"
        if written := by_history.get(key):
            marks = writing.checker.unsupported(written.text, writing.book.evidence(key))
            texts.append((f"{label}, cut" if written.cut else label, spans(written.text, marks)))
        else:
            texts.append((label, []))
    rated = [entry for entry in history if entry.rated]
    title = f"{settings.user.capitalize()} {writing.book.user_of(key)}: "
    title += f"{sum(entry.liked for entry in rated)} of {len(rated)} {settings.liked}" if rated else "chosen, not rated"
    if facts := history_facts(writing.book.history(key), settings):
        title = f"{title}. Above the list in the prompt: {' '.join(facts)}"
    return Example(title, lines, texts)


def spans(text: str, marks: Sequence[Mention]) -> list[Span]:
    """A text in pieces; the names that aren't in the history are marked ones."""
    plain = normal_form(text)
    pieces: list[Span] = []
    end = 0
    for mark in marks:
        pieces += [Span(plain[end : mark.start]), Span(plain[mark.start : mark.end], True)]
        end = mark.end
    return [piece for piece in (*pieces, Span(plain[end:])) if piece.text]


def by_hash(keys: Mapping[str, object] | set[str]) -> list[str]:
    """Histories in the order of a hash, so that no example is hand-picked."""
    return sorted(keys, key=_hash)


def _hash(key: str) -> str:
    return stable_hash("report", key)
