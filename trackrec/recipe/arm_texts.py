"""Which texts the arms of the CTR stage read, and which stages make them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from trackrec.ctr.arms.arm import text_sources
from trackrec.metrics.texts import mean_words
from trackrec.prompts.book import PromptBook
from trackrec.prompts.templates import NO_HISTORY, Rated, history_facts, leanings
from trackrec.recipe.book import prompt_book
from trackrec.recipe.names import DATA, EMBED, LOG_ODDS, TEACHER, TEXTS, UNTUNED
from trackrec.recipe.tables import empty_histories, texts_of

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment


def ctr_stages(arms: Sequence[str], use: str) -> tuple[str, ...]:
    """The stages that `ctr_inputs` reads: only the data where no arm has a text.

    Args:
        arms: ``ctr.arms``.
        use: ``ctr.text.use``.
    """
    if text_sources(arms) == {"none"}:
        return (DATA,)
    return (DATA, TEXTS, LOG_ODDS if use == "log_odds" else EMBED)


def stages_read(exp: Experiment) -> tuple[str, ...]:
    """`ctr_stages` of a run."""
    return ctr_stages(exp.ctr.arms, exp.ctr.text.use)


def text_fields(exp: Experiment) -> dict[str, dict[str, str]]:
    """The texts that the arms of the CTR stage read: field -> history -> text; nothing where none reads one."""
    if EMBED not in stages_read(exp):
        return {}
    fields, sources = {"reccot": texts_of(exp, TEXTS)}, text_sources(exp.ctr.arms)
    for stage in (TEACHER, UNTUNED):
        if stage in sources:
            fields[stage] = texts_of(exp, stage)
    if TEACHER in fields:  # no teacher is asked about an empty history
        fields[TEACHER] |= dict.fromkeys(empty_histories(exp).intersection(fields["reccot"]), NO_HISTORY)
    if "prompt" in sources:
        book = prompt_book(exp)
        fields["prompt"] = {history: book.history_text(history) for history in fields["reccot"]}
    if "facts" in sources:
        fields["facts"] = facts_texts(prompt_book(exp), fields["reccot"])
    return fields


def facts_texts(book: PromptBook, reccots: Mapping[str, str]) -> dict[str, str]:
    """What counting says of each whole history, in as many words as a RecCoT has on average, or fewer.

    It is the control of the nets that costs no language model: the number of likes, then as many of the attributes that
    are mostly liked and mostly disliked as fit. A history without ratings has none of these.
    """
    words = mean_words([text for key, text in reccots.items() if not book.is_empty(key)])
    texts = {}
    for key in reccots:
        history = book.history(key)

        def offer(kinds: int, history: Sequence[Rated] = history) -> str:
            shown = replace(book.generator, history_counts=True, history_kinds=kinds)
            return " ".join(history_facts(history, shown))

        most = max(map(len, leanings(history)))
        fitting = bisect_right(range(1, most + 1), words, key=lambda kinds: len(offer(kinds).split()))
        texts[key] = offer(fitting) or NO_HISTORY
    return texts
