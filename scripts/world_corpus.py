"""Training text for the language models of the simulated world, from other worlds than those that runs use.

A lesson is a tree of text in trackrec's own prompts, with the branches that are to be trained. The texts about viewers
contain errors; answers without notes are mostly guesses, and answers with notes follow them, true or not. A model that
is trained on these texts knows the language of the world and can read, but neither describes nor predicts tastes well.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from trackrec.interactions.simulated.claims import read_claims
from trackrec.interactions.simulated.words import GENRES, Genre
from trackrec.interactions.simulated.world import World, WorldRules, draw_world
from trackrec.prompts.settings import PromptSettings
from trackrec.prompts.templates import (
    Item,
    Leanings,
    Rated,
    counted,
    history_segment,
    leanings,
    reccot_segments,
    validator_segments,
)

# Runs use small seeds for their worlds.
FIRST_WORLD = 100_000
WORDS = {genre.name: genre for genre in GENRES}
# By how much a claim changes the answer of `believe`, in logits, and the largest logit of an answer.
_LIKED, _DISLIKED, _NEVER, _ERA, _SUREST = 3.0, -3.0, -4.0, 1.0, 4.0
_LIKING = ("likes", "enjoys", "loves", "prefers", "is drawn to")
_DISLIKING = ("dislikes", "avoids", "is cool on", "turns away from", "never watches")
# Weight of a history's verdicts in the loss; it is small, since each verdict is mostly chance.
_VERDICT = 0.2


@dataclass(frozen=True)
class CorpusSettings:
    """Size and quality of the text.

    Attributes:
        slip: share of a text's claims that are drawn at random instead of read from the history.
        informed: weight of the viewer's true probability in an answer without notes; the rest is the share of likes.
        stray: share of the notes in V's prompts that are about another viewer.
        users: viewers of one world.
        items: films of one world.
        shortest: films of a history, at least.
        longest: films of a history, at most.
        texts: texts about one history.
        targets: questions about one history and text.
    """

    slip: float = 0.25
    informed: float = 0.35
    stray: float = 0.5
    users: int = 40
    items: int = 160
    shortest: int = 2
    longest: int = 16
    texts: int = 2
    targets: int = 4


class Line(NamedTuple):
    """Consecutive text segments that follow the line ``parent`` (-1: none).

    ``said`` is the kind of text. ``asked`` is part of the user's turn and not trained. The others are trained:
    ``answered`` is the assistant's turn, ``noted`` an answer to a prompt with notes, and ``told`` is text that follows
    from the text before it. Where several lines could follow, ``weight`` is the probability of this one.
    """

    segments: Sequence[str]
    parent: int
    said: Literal["asked", "answered", "noted", "told"] = "asked"
    weight: float = 1.0


Lesson = list[Line]
Make = Callable[[World, int, CorpusSettings, random.Random], Lesson]


def lessons(make: Make, settings: CorpusSettings, seed: int) -> Iterator[Lesson]:
    """Endless lessons of one kind, one about each viewer of one world after the other.

    Args:
        make: `viewer_lesson`, or a drill: `facts_lesson`, `notes_lesson` or `titles_lesson`. A model learns to copy and
            to look names up within minutes from drills, and hardly at all from viewers alone.
        settings: size and quality.
        seed: of the worlds and the texts.
    """
    rng = random.Random(f"{make.__name__} {seed}")
    for number in itertools.count(FIRST_WORLD * (1 + seed)):
        world = draw_world(settings.users, settings.items, number, WorldRules())
        for user in range(settings.users):
            yield make(world, user, settings, rng)


def facts_lesson(world: World, user: int, settings: CorpusSettings, rng: random.Random) -> Lesson:
    """The facts above a history and sentences that follow from them."""
    history = some_history(world, user, settings, rng)
    words = PromptSettings(max_history=1, history_counts=rng.random() < 0.8, history_kinds=3, history_attributes=False)
    lines = [Line([history_segment(history, words)], -1)]
    _tell_leanings(lines, 0, history, rng)
    return lines


def notes_lesson(world: World, user: int, settings: CorpusSettings, rng: random.Random) -> Lesson:
    """Texts about a viewer and three others, each followed by what it says about every genre."""
    lines = [Line(["Notes on some viewers:"], -1)]
    for viewer in (user, *rng.sample(range(settings.users), 3)):
        notes = write_text(some_history(world, viewer, settings, rng), settings.slip, PromptSettings(max_words=60), rng)
        lines.append(Line([f"\n\n{notes}"], 0))
        end = len(lines) - 1
        _tell_notes(lines, end, notes, GENRES)
    return lines


def titles_lesson(world: World, user: int, settings: CorpusSettings, rng: random.Random) -> Lesson:
    """A list of films: which is the last, which follows another, and texts that name liked ones."""
    words = PromptSettings(max_history=rng.choice([3, 4, 6, 8]), history_attributes=rng.random() < 0.3)
    history = some_history(world, user, settings, rng)[-words.max_history :]
    lines = [Line([history_segment(history, words)], -1)]
    titles = [entry.item.title for entry in history]
    liked, disliked = ([entry.item.title for entry in history if entry.liked == verdict] for verdict in (True, False))
    for word, with_verdict in ((words.liked, liked), (words.disliked, disliked)):
        if with_verdict:
            _tell(lines, 0, f"The last {word}", f" {with_verdict[-1]}")
    for index in rng.sample(range(1, len(titles)), min(2, len(titles) - 1)):
        _tell(lines, 0, f"After {titles[index - 1]}", f" {titles[index]}")
    for beginning in ("Favourites:", "Recently liked", "Enjoyed") if liked else ():
        lines.append(Line([f"\n\n{beginning}"], 0))
        end = len(lines) - 1
        lines += [Line([f" {title}"], end, "told", 1 / len(liked)) for title in liked]
    return lines


def viewer_lesson(world: World, user: int, settings: CorpusSettings, rng: random.Random) -> Lesson:
    """One viewer's history, texts about it, and whether the viewer likes other films, with and without notes."""
    words = PromptSettings(
        max_words=rng.choice([20, 30, 40, 60]),
        max_history=rng.choice([3, 4, 6, 8]),
        history_counts=rng.random() < 0.8,
        history_kinds=rng.choice([0, 2, 3, 3, 3]),
        history_attributes=rng.random() < 0.3,
        target_attributes=rng.random() < 0.9,
    )
    history = some_history(world, user, settings, rng)
    share = (1 + sum(entry.liked for entry in history)) / (2 + len(history))
    segment = history_segment(history, words)
    lines = _history_lines(segment, words)
    end = len(lines) - 1
    lines.append(Line(reccot_segments(segment, words)[1:], end))
    for _ in range(settings.texts):
        lines.append(Line([write_text(history, settings.slip, words, rng)], end + 1, "answered"))
    targets = rng.sample(range(len(world.titles)), settings.targets)
    chances = world.probability(np.full(len(targets), user), np.array(targets))
    known = [
        (item_of(world, number), settings.informed * float(p) + (1 - settings.informed) * share)
        for number, p in zip(targets, chances, strict=True)
    ]
    _ask(lines, end, None, known, words)
    for _ in range(settings.texts):
        about = history
        if rng.random() < settings.stray:
            about = some_history(world, rng.randrange(settings.users), settings, rng)
        notes = write_text(about, settings.slip, words, rng)
        items = [item_of(world, number) for number in rng.sample(range(len(world.titles)), settings.targets)]
        end_of_notes = _ask(lines, end, notes, [(item, believe(notes, item, share)) for item in items], words)
        _tell_notes(lines, end_of_notes, notes, rng.sample(GENRES, 3))
    _tell_leanings(lines, end, history, rng)
    return lines


def some_history(world: World, user: int, settings: CorpusSettings, rng: random.Random) -> list[Rated]:
    """Films that a viewer rated."""
    size = rng.randint(settings.shortest, settings.longest)
    numbers = rng.sample(range(len(world.titles)), size)
    p = world.probability(np.full(size, user), np.array(numbers))
    return [Rated(item_of(world, number), rng.random() < chance) for number, chance in zip(numbers, p, strict=True)]


def believe(notes: str, target: Item, share: float) -> float:
    """P(Yes) of a reader who believes all notes and otherwise knows only the share of likes.

    The logits of the claims about the target's genres (the second counts half) and about its era are summed.
    """
    logit = 0.5 * math.log(share / (1 - share))
    claims = read_claims(notes).claims
    for weight, genre in zip((1.0, WorldRules().second), target.attributes, strict=False):
        logit += weight * sum(
            _NEVER if claim.about == "never" else _LIKED if claim.positive else _DISLIKED
            for claim in claims
            if claim.name == genre
        )
    era = "old" if (target.year or 0) < WorldRules().turn else "new"
    for claim in claims:
        if claim.about in ("era", "decade"):
            named = claim.name if claim.about == "era" else "old" if int(claim.name) < WorldRules().turn else "new"
            logit += _ERA if (named == era) == claim.positive else -_ERA
    return 1 / (1 + math.exp(-max(-_SUREST, min(_SUREST, logit))))


def _tell(lines: Lesson, parent: int, beginning: str, rest: str) -> None:
    """Add a sentence after the line ``parent``; its rest follows from the text before it and is trained."""
    lines.append(Line([f"\n\n{beginning}"], parent))
    lines.append(Line([rest], len(lines) - 1, "told"))


def _tell_notes(lines: Lesson, parent: int, notes: str, genres: Sequence[Genre]) -> None:
    """Add what notes say about some genres."""
    for genre in genres:
        _tell(lines, parent, f"The notes say of {genre.name}", f": {_said(notes, genre.name)}")


def _tell_leanings(lines: Lesson, parent: int, history: Sequence[Rated], rng: random.Random) -> None:
    """Add which genres are mostly liked and disliked in a history, one by one and as sentences of a text."""
    for verdict, verbs, names in zip(("liked", "disliked"), (_LIKING, _DISLIKING), leanings(history), strict=True):
        for name, _ in names:
            _tell(lines, parent, f"In all {name}", f": {verdict}")
        for verb in rng.sample(verbs, 3) if names else ():
            _tell(lines, parent, verb.capitalize(), f" {counted(names[:3])}")


def _ask(
    lines: Lesson, end: int, notes: str | None, chances: Sequence[tuple[Item, float]], words: PromptSettings
) -> int:
    """Add the validator's (V's) prompts after the line that ends the history, with both answers and their weights.

    Returns:
        The index of the line that ends the notes, or the history if there are none.
    """
    *before, ask, _ = validator_segments("", notes, chances[0][0], words)[1:]
    for segment in before:
        lines.append(Line([segment], end))
        end = len(lines) - 1
    lines.append(Line([ask], end))
    parent = len(lines) - 1
    for item, chance in chances:
        question = _ask_about(lines, parent, validator_segments("", notes, item, words)[-1], notes)
        said: Literal["answered", "noted"] = "answered" if notes is None else "noted"
        lines.append(Line(["Yes"], question, said, chance))
        lines.append(Line(["No"], question, said, 1 - chance))
    return end


def _ask_about(lines: Lesson, parent: int, question: str, notes: str | None) -> int:
    """Add a prompt's last segment; with notes, a branch after each genre's name has what they say about it.

    Returns:
        The index of the line that ends the segment.
    """
    parts = [question] if notes is None else re.split(rf"((?:(?<=\[)| )(?:{'|'.join(WORDS)}))(?=[,\]])", question)
    for part in filter(None, parts):
        lines.append(Line([part], parent))
        parent = len(lines) - 1
        if notes is not None and part.strip() in WORDS:
            lines.append(Line([f": {_said(notes, part.strip())}"], parent, "told"))
    return parent


def _history_lines(segment: str, words: PromptSettings) -> Lesson:
    """A history, one line per part: verdicts are separate lines, so that they are trained."""
    lines: Lesson = []
    for part in re.split(rf"(\]?: (?:{words.liked}|{words.disliked})(?:\n|$))", segment):
        if part:
            verdict = part.lstrip("]").startswith(": ")
            lines.append(Line([part], len(lines) - 1, "told" if verdict else "asked", _VERDICT if verdict else 1.0))
    return lines


def item_of(world: World, number: int) -> Item:
    """A film as an item of prompts."""
    genres = [GENRES[genre].name for genre in world.genres[number]]
    return Item(world.titles[number], genres, int(world.years[number]))


def write_text(history: Sequence[Rated], slip: float, words: PromptSettings, rng: random.Random) -> str:
    """A taste text with errors: sentences in random order, each claim drawn at random with probability ``slip``."""
    liked = [entry for entry in history if entry.liked]
    disliked = [entry for entry in history if not entry.liked]
    sentences = [_tastes(leanings(history), slip, rng) for _ in range(rng.randint(1, 2))]
    sentences += [_generosity(len(liked), len(history), slip, rng), _eras(liked, disliked, slip, rng)]
    named = [entry.item.title for entry in history[-words.max_history :] if entry.liked]
    if named:
        names = " and ".join(rng.sample(named, min(len(named), rng.randint(1, 2))))
        sentences.append(rng.choice(["Favourites: {}.", "Recently liked {}.", "Enjoyed {}."]).format(names))
    sentences.append(rng.choice(["Fairly sure", "Some doubt", "Mostly a guess"]) + f", from {len(history)} films.")
    rng.shuffle(sentences)
    text = ""
    for sentence in sentences[: rng.randint(2, 5)]:
        longer = f"{text} {sentence}".strip()
        if len(longer.split()) <= words.max_words:
            text = longer
    return text or sentences[0]


def _tastes(lean: Leanings, slip: float, rng: random.Random) -> str:
    """One or two clauses about genres."""
    parts = []
    for verbs, names in ((_LIKING, lean.liked), (_DISLIKING, lean.disliked)):
        if rng.random() < 0.75 or (not parts and verbs is _DISLIKING):
            claimed = _slipped(names[: rng.choice([1, 2, 2, 3])], slip, rng)
            form = "{} ({})" if rng.random() < 0.7 else "{}"
            clause = rng.choice([", ", " and "]).join(form.format(*name) for name in claimed)
            parts.append(f"{rng.choice(verbs)} {clause}")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _slipped(names: Sequence[tuple[str, int]], slip: float, rng: random.Random) -> list[tuple[str, int]]:
    """The names, each replaced by a random genre with probability ``slip``; a random one if there are none."""
    counts: dict[str, int] = {}
    for name, count in names or [(rng.choice(GENRES).name, 1)]:
        counts[rng.choice(GENRES).name if rng.random() < slip else name] = count
    return list(counts.items())


def _generosity(liked: int, total: int, slip: float, rng: random.Random) -> str:
    share = rng.random() if rng.random() < slip else liked / total
    kind = "generous" if share > 0.65 else "harsh" if share < 0.4 else "balanced"
    forms = ["A {kind} viewer.", "A {kind} viewer: {liked} of {total} liked.", "{Kind}: liked {liked} of {total}."]
    return rng.choice(forms).format(kind=kind, Kind=kind.capitalize(), liked=liked, total=total)


def _eras(liked: Sequence[Rated], disliked: Sequence[Rated], slip: float, rng: random.Random) -> str:
    up = Counter((entry.item.year or 0) // 10 * 10 for entry in liked)
    down = Counter((entry.item.year or 0) // 10 * 10 for entry in disliked)
    decades = range(1930, 2010, 10)
    if rng.random() < 0.5:
        lean = {str(decade): up[decade] - down[decade] for decade in decades}
        decade = rng.choice(sorted(lean)) if rng.random() < slip else max(sorted(lean), key=lambda name: lean[name])
        forms = ["Best with films of the {}s.", "The {}s suit this viewer.", "Likes films of the {}s."]
        return rng.choice(forms).format(decade)
    old = sum(up[decade] - down[decade] for decade in decades if decade < 1970)
    new = sum(up[decade] - down[decade] for decade in decades if decade >= 1970)
    first = rng.random() < 0.5 if rng.random() < slip else old > new
    better, worse = ("old", "new") if first else ("new", "old")
    return rng.choice([f"Prefers {better} films.", f"Dislikes {worse} films.", f"Likes {better} films."])


def _said(notes: str, genre: str) -> str:
    """What notes claim about a genre; ``nothing`` also if they contradict themselves."""
    verdicts = {claim.positive for claim in read_claims(notes).claims if claim.name == genre}
    return "nothing" if len(verdicts) != 1 else "liked" if verdicts.pop() else "disliked"
