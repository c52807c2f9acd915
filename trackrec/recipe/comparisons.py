"""What the validators (V) read that the V with RecCoT is compared with: other histories, other texts, or nothing more.

Each is named in ``loop.comparisons``, but for ``plain``, which reads V's own prompt without a text and is always there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from trackrec.llm.chat import ChatEncoder
from trackrec.prompts.book import PromptBook
from trackrec.prompts.templates import NO_HISTORY, leanings, notes_segment
from trackrec.recipe.book import prompt_book
from trackrec.recipe.models import language_model
from trackrec.recipe.names import PLAIN, TEACHER, comparison_folder, in_comparison
from trackrec.recipe.tables import empty_histories, texts_of

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment


class Reading(NamedTuple):
    """What a V reads.

    Attributes:
        book: its prompts.
        texts: the text about each history; None is a prompt without one.
        notes: for the manifest.
    """

    book: PromptBook
    texts: Mapping[str, str | None]
    notes: dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """One comparison.

    Attributes:
        name: ``plain``, or one of `trackrec.recipe.names.COMPARISONS`.
        greedy: the stage with the greedy texts of the last G.
    """

    name: str
    greedy: str

    @property
    def arm(self) -> str:
        """Under which its V is filed in metrics tables; also the folder of its stages."""
        return comparison_folder(self.name)

    @property
    def source(self) -> str:
        """Under which its V's scores are filed."""
        return "none" if self.name == PLAIN else self.name

    @property
    def keys(self) -> tuple[str, ...]:
        """Config keys that decide what V reads, besides those of V's own prompt."""
        return ("prompts.generator",) if self.name == "whole" else ()

    def stages(self, tunes: bool) -> tuple[str, ...]:
        """The stages that it reads, to tune V or to evaluate it."""
        if self.name in ("facts", "titles"):
            return (self.greedy,)
        if self.name == "teacher":
            return (TEACHER,) if tunes else (TEACHER, in_comparison("teacher", "texts"))
        return (in_comparison("untuned", "texts"),) if self.name == "untuned" else ()

    def reading(self, exp: Experiment, history_ids: Collection[str], tunes: bool) -> Reading:
        """What V reads about some histories.

        Args:
            exp: the run.
            history_ids: the histories.
            tunes: whether V is tuned on it. The teacher's texts about evaluated histories never are.
        """
        wanted = sorted(set(history_ids))
        nothing = dict.fromkeys(wanted)
        book = prompt_book(exp)
        if self.name in ("facts", "titles"):
            chat = language_model(exp, "validator").chat
            budget = exp.once("budget", lambda: text_budget(chat, book, texts_of(exp, self.greedy)))
            offers = {"facts": _facts, "titles": _titles}[self.name]
            segments, extra = dict[str, str](), 0
            for key in wanted:
                segments[key], more = most_within(chat, *offers(book, key), budget)
                extra += more
            notes = {"budget_tokens": budget, "more_tokens": round(extra / max(1, len(wanted)), 1)}
            return Reading(book.with_validator_history(segments.__getitem__), nothing, notes)
        if self.name == "whole":
            return Reading(book.with_validator_history(book.history_text), nothing, {})
        if self.name in ("teacher", "untuned"):
            written = dict.fromkeys(empty_histories(exp), NO_HISTORY)
            for stage in self.stages(tunes):
                written |= texts_of(exp, stage)
            texts = {key: written.get(key) for key in wanted}
            missing = sum(text is None for text in texts.values())
            return Reading(book, texts, {"histories": len(texts), "without_text": missing})
        return Reading(book, nothing, {})


def text_budget(chat: ChatEncoder, book: PromptBook, texts: Mapping[str, str]) -> int:
    """The tokens that a text takes in V's prompt, with the words around it: their mean, rounded.

    The texts about empty histories, which nobody wrote, don't count; without others it is 0.
    """
    written = [text for key, text in texts.items() if not book.is_empty(key)]
    tokens = sum(len(chat.encode_data(notes_segment(text, book.settings))) for text in written)
    return round(tokens / max(1, len(written)))


def most_within(chat: ChatEncoder, offer: Callable[[int], str], most: int, budget: int) -> tuple[str, int]:
    """The longest segment whose tokens beyond those of the shortest one stay within a budget, and how many they are.

    Args:
        chat: encodes.
        offer: the segment with so many things more; 0 is V's own.
        most: the greatest number of them. Segments grow with it.
        budget: in tokens.
    """
    own = len(chat.encode_data(offer(0)))

    def more(count: int) -> int:
        return len(chat.encode_data(offer(count))) - own

    fitting = bisect_right(range(1, most + 1), budget, key=more)
    return offer(fitting), more(fitting)


def _facts(book: PromptBook, history_id: str) -> tuple[Callable[[int], str], int]:
    """The counts of the whole history, then further kinds."""
    own = book.validator
    kinds = max(map(len, leanings(book.history(history_id))))

    def offer(count: int) -> str:
        if not count:
            return book.segment(history_id, own)
        seen = replace(own, history_counts=True, history_kinds=own.history_kinds + count - 1)
        return book.segment(history_id, seen)

    return offer, 1 + max(0, kinds - own.history_kinds)


def _titles(book: PromptBook, history_id: str) -> tuple[Callable[[int], str], int]:
    """Further newest titles."""
    own = book.validator

    def offer(count: int) -> str:
        return book.segment(history_id, replace(own, max_history=own.max_history + count))

    return offer, max(0, len(book.history(history_id)) - own.max_history)
