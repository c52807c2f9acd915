"""What G writes: diversity, length, cut share, names that the history doesn't hold, and twenty users side by side."""

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
from trackrec.prompts.templates import Rated, describe, history_facts
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
    """One text, and why it ended."""

    text: str
    cut: bool


class Writing:
    """The texts of a run: the teacher's and each round's greedy ones, with the histories that they are about.

    Args:
        run: the run.
    """

    def __init__(self, run: RunNumbers) -> None:
        self.run = run
        stages = {TEACHER: TEACHER, round_name(0): in_round(0, "greedy")}
        stages |= {round_name(number): in_round(number, "greedy") for number in range(1, run.rounds + 1)}
        found = {name: run.table(stage, "reccots", _COLUMNS) for name, stage in stages.items()}
        self.texts: dict[str, dict[str, Written]] = {
            name: {key: Written(text, reason == "length") for key, text, reason in table.iter_rows()}
            for name, table in found.items()
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
        return _by_hash(set.intersection(*sets) if sets else set())[:_MOST_TEXTS]

    @cached_property
    def examples(self) -> list[str]:
        """Histories to show: those with most texts first, then by hash, so that nobody picked them."""
        counts = Counter(key for texts in self.texts.values() for key in texts)
        return sorted(counts, key=lambda key: (-counts[key], _hash(key)))[:EXAMPLES]

    def measured(self, name: str) -> list[str]:
        """Histories on which the texts of a round, or of the teacher, are measured."""
        if name != "teacher":
            return self.common
        return _by_hash(self.texts[name])[: len(self.common) or _MOST_TEXTS]

    @cached_property
    def book(self) -> PromptBook:
        """Histories and items of the texts that are looked at; reads no more than those."""
        return self.run.book({*self.examples, *(key for name in self.texts for key in self.measured(name))})

    @cached_property
    def settings(self) -> PromptSettings:
        """Words and limits of the prompts that G read."""
        return self.run.prompts

    @cached_property
    def checker(self) -> ClaimChecker:
        """Finds names of the catalogue, of those alone whose words occur in the texts."""
        keys = {name: [*self.measured(name), *self.examples] for name in self.texts}
        return self.run.claim_checker(
            self.texts[name][key].text for name in keys for key in keys[name] if key in self.texts[name]
        )

    def shown(self, history_id: str) -> list[Rated]:
        """The part of a history that G's prompt holds."""
        return self.book.history(history_id)[-self.settings.max_history :]


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
        "catalogue that a text names and the history that G read doesn't hold. Intervals are 95 %, over texts.",
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
        "A falling distinct-2 means that texts grow alike; more words or more cut texts, that they grow long. "
        "Unsupported names that rise with the reward mean that G learns to please V with inventions."
    )
    return Section("writing", title, [Figure(caption, panels, table)])


def _measures(writing: Writing, name: str) -> dict[str, Num]:
    keys = writing.measured(name)
    own = [writing.texts[name][key] for key in keys]
    claims = [writing.checker.check(text.text, writing.book.evidence(key)) for key, text in zip(keys, own, strict=True)]
    texts = [text.text for text in own]
    return {
        "distinct-2": distinct_interval(texts),
        "words": _over_texts([len(text.split()) for text in texts], unit="one"),
        "cut": _over_texts([text.cut for text in own], unit="share"),
        "names a text": _over_texts([one.claims for one in claims], unit="one"),
        "unsupported": _over_texts([one.unsupported for one in claims], [one.claims for one in claims], unit="share"),
    }


def distinct_interval(texts: Sequence[str], n: int = 2) -> Num:
    """`distinct_n` with an interval of two jackknife standard errors: leaving out a text takes its own n-grams along.

    A bootstrap would repeat texts, and repeated texts are never distinct.
    """
    value = distinct_n(texts, n)
    grams = [Counter(zip(*(text.lower().split()[start:] for start in range(n)), strict=False)) for text in texts]
    owners = Counter(gram for own in grams for gram in own)
    total, kinds = sum(sum(own.values()) for own in grams), len(owners)
    left = np.array(
        [
            (kinds - sum(owners[gram] == 1 for gram in own)) / (total - sum(own.values()))
            for own in grams
            if total > sum(own.values())
        ]
    )
    if len(left) < 2:
        return Num(value, n=len(texts))
    error = math.sqrt((len(left) - 1) / len(left) * float(((left - left.mean()) ** 2).sum()))
    return Num(value, max(0.0, value - 1.96 * error), min(1.0, value + 1.96 * error), len(texts))


def _over_texts(parts: Sequence[float], wholes: Sequence[float] | None = None, unit: Unit = "one") -> Num:
    """Sum of parts over sum of wholes (over the number of texts without them), with an interval over texts."""
    upper = np.asarray(parts, np.float64)
    lower = np.ones_like(upper) if wholes is None else np.asarray(wholes, np.float64)
    if not lower.sum():
        return Num(math.nan, n=len(upper), unit=unit)

    def ratio(a: np.ndarray, b: np.ndarray) -> float:
        return float(a.sum() / b.sum()) if b.sum() else math.nan

    return as_num(user_bootstrap(ratio, np.arange(len(upper)), upper, lower, n_resamples=_RESAMPLES), unit)


# -- side by side -------------------------------------------------------------------------------------------------


def examples_section(writing: Writing) -> Section:
    """Twenty users: what G read, and what the teacher and G in each round made of it."""
    title = f"{EXAMPLES} users' texts, side by side"
    if not writing.texts:
        return Section("texts", title, [Missing("There is no text yet: run `trackrec fit`.")])
    genres = "and attributes" if writing.settings.history_attributes else "(it saw no attributes)"
    lead = Paragraph(
        f"Under history stand the {writing.settings.items} that G read {genres}. Marked names are in the catalogue but "
        "not in that history; a name that is nowhere in the catalogue isn't found. Nobody picked these: those with "
        "most texts come first, then a hash decides."
    )
    blocks: list[Block] = [lead, *(_example(writing, key) for key in writing.examples)]
    return Section("texts", title, blocks)


def _example(writing: Writing, key: str) -> Example:
    settings, history = writing.settings, writing.shown(key)
    lines = [(describe(entry.item, settings, True), entry.liked) for entry in history]
    texts: list[tuple[str, list[Span]]] = []
    for name, own in writing.texts.items():
        label = name if name == "teacher" else f"round {name}"
        if key in own:
            marks = writing.checker.unsupported(own[key].text, writing.book.evidence(key))
            texts.append((f"{label}, cut" if own[key].cut else label, spans(own[key].text, marks)))
        else:
            texts.append((label, []))
    liked = sum(entry.liked for entry in history)
    title = f"{settings.user.capitalize()} {writing.book.user_of(key)}: {liked} of {len(history)} {settings.liked}"
    if facts := history_facts(writing.book.history(key), settings):
        title = f"{title}. Told above the list: {' '.join(facts)}"
    return Example(title, lines, texts)


def spans(text: str, marks: Sequence[Mention]) -> list[Span]:
    """A text in pieces, the marked ones where it names what the history doesn't hold."""
    plain, place, pieces = normal_form(text), 0, list[Span]()
    for mark in marks:
        pieces += [Span(plain[place : mark.start]), Span(plain[mark.start : mark.end], True)]
        place = mark.end
    return [piece for piece in (*pieces, Span(plain[place:])) if piece.text]


def _by_hash(keys: Mapping[str, object] | set[str]) -> list[str]:
    return sorted(keys, key=_hash)


def _hash(key: str) -> str:
    return stable_hash("report", key)
