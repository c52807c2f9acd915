"""What the validator (V) reads, what that costs in tokens, and what the RecCoT is worth beside other things to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import polars as pl

from trackrec.metrics.scores import auc
from trackrec.recipe.graph import configured_comparisons
from trackrec.recipe.names import COMPARISONS, SHUFFLED, TEST, comparison_folder, in_comparison, in_round, without_text
from trackrec.report.numbers import RunNumbers
from trackrec.report.render.document import Block, Cell, Folded, Missing, Num, Paragraph, Section, TableBlock, sentence
from trackrec.report.sections.judgements import paired_difference

TITLE = "What V reads"
_ROWS = {"test": "test", "valid": "validation"}
_BASE = "base"  # under which scores of the untuned model are filed
_NAMES = {
    "untuned_plain": "untuned V, no text",
    "plain": "tuned V, no text",
    "other": "another user's RecCoT",
    "facts": "same tokens: facts",
    "titles": "same tokens: titles",
    "teacher": "the teacher's text",
    "untuned": "the untuned model's text",
    "reccot": "RecCoT after the loop",
    "whole": "the whole history",
}
# As the conclusion calls them; facts and titles are one question.
_RIVALS = {"plain": "V without text", "teacher": "the teacher's text", "whole": "the whole history"}


class Reader(NamedTuple):
    """What one V reads, and how it answers on the rows of a split."""

    tokens: Num | None
    auc: Num
    answers: pl.DataFrame | None


class Place(NamedTuple):
    """Where a V's numbers and answers are filed."""

    stage: str
    round: int
    arm: str
    validator: str
    source: str | None


def reading_section(run: RunNumbers) -> Section | None:
    """The table and what it supports, on the test split if it was read; None where V reads what G reads, and nothing
    else is asked for.
    """
    if not _is_asked(run):
        return None
    splits = [split for split in ("test", "valid") if readers(run, split)]
    if not splits:
        return Section("reading", TITLE, [Missing("No V was evaluated yet: run `trackrec fit`.")])
    blocks = reading_blocks(run, splits[0])
    blocks.extend(Folded(f"The same on {_ROWS[split]} rows", reading_blocks(run, split)) for split in splits[1:])
    return Section("reading", TITLE, blocks)


def reading_blocks(run: RunNumbers, split: str) -> list[Block]:
    """The table of one split, ``valid`` or ``test``, and its sentences; nothing where nothing was measured or asked."""
    found = readers(run, split) if _is_asked(run) else {}
    if not found:
        return []
    ours, plain = found.get("reccot"), found.get("plain") or found.get("untuned_plain")
    against: dict[str, Num] = {}
    rows: list[list[Cell]] = []
    for name, reader in found.items():
        gain = None if reader is plain else _difference(reader, plain)
        if name != "reccot" and (lead := _difference(ours, reader)):
            against[name] = lead
        rows.append([_NAMES[name], reader.tokens or "–", reader.auc, gain or "–", against.get(name, "–")])
    columns = ("reader", "tokens a question", "AUC", "minus V without text", "RecCoT minus this")
    blocks: list[Block] = [TableBlock(_caption(run, split), columns, rows, f"{TITLE} ({split})")]
    sentences = [conclusion(against), trade(ours, found.get("whole")), _untaught(run) if "teacher" in found else ""]
    blocks.extend(Paragraph(text) for text in sentences if text)
    return blocks


def readers(run: RunNumbers, split: str) -> dict[str, Reader]:
    """The Vs that were evaluated on a split, by what they read."""
    found = {}
    for name, place in _places(run, split).items():
        stage, round_, arm, validator, source = place
        if value := run.measured(stage, split, arm, "auc", round_):
            tokens = run.measured(stage, split, arm, "prompt_tokens", round_, unit="one")
            found[name] = Reader(tokens, value, run.answers(stage, validator, source))
    return found


def conclusion(against: Mapping[str, Num]) -> str:
    """What the table supports: an advantage only where the whole paired interval lies above zero.

    Args:
        against: RecCoT minus each reader, by the names of the readers.
    """
    same = [name for name in ("facts", "titles") if name in against]
    rivals = {name: against[name] for name in _RIVALS if name in against}
    words = dict(_RIVALS)
    if same:
        best = min(same, key=lambda name: against[name].value)
        words[best] = f"the same tokens without an LLM ({best}{', the better of both' if len(same) > 1 else ''})"
        rivals = {name: against[name] for name in ("plain", best, "teacher", "whole") if name in against}
    beaten = [words[name] for name, num in rivals.items() if num.low > 0]
    worse = [words[name] for name, num in rivals.items() if num.high < 0]
    unclear = [words[name] for name, num in rivals.items() if not (num.low > 0 or num.high < 0)]
    parts = [f"RecCoT beats {_listed(beaten)}"] if beaten else []
    if same and not rivals[best].low > 0:
        unclear = [name for name in unclear if name != words[best]]
        worse = [name for name in worse if name != words[best]]
        parts.append(f"RecCoT does not beat {words[best]}{': it is worse' if rivals[best].high < 0 else ''}")
    if unclear:
        parts.append(f"there is no evidence that RecCoT beats {_listed(unclear, 'or')}")
    if worse:
        parts.append(f"RecCoT is worse than {_listed(worse)}")
    return f"{sentence('; '.join(parts))}." if parts else ""


def trade(ours: Reader | None, whole: Reader | None) -> str:
    """What V saves by reading the text in place of the whole history, and what it gives up."""
    if ours is None or whole is None or ours.tokens is None or whole.tokens is None:
        return ""
    share = Num(ours.tokens.value / whole.tokens.value, unit="share")
    return (
        f"V reads {ours.tokens.text} tokens a question with the text, {whole.tokens.text} with the whole history "
        f"({share.text}), AUC {ours.auc.text} against {whole.auc.text}."
    )


def _is_asked(run: RunNumbers) -> bool:
    prompts = run.prompts
    return prompts.for_validator() != prompts.for_generator() or bool(configured_comparisons(run.saved_config))


def _places(run: RunNumbers, split: str) -> dict[str, Place]:
    evaluated, tuned = in_round(run.rounds, "evaluate"), in_round(run.rounds, "rec_tune")
    names = run.validators(evaluated)
    ours = tuned if tuned in names or not names else names[0]
    plain, untexted = without_text("rec_tune"), without_text("evaluate")
    if split == TEST:
        places = {
            "untuned_plain": Place(TEST, -1, "validator/untuned", _BASE, "none"),
            "plain": Place(TEST, -1, "validator/plain", plain, "none"),
            "other": Place(TEST, -1, "validator/other", ours, SHUFFLED),
            "reccot": Place(TEST, -1, "validator/reccot", ours, "texts"),
        }
    else:
        arm = "tuned" if ours == tuned else "scorer"
        places = {
            "untuned_plain": Place(untexted, -1, "untuned", _BASE, "none"),
            "plain": Place(untexted, -1, "plain", plain, "none"),
            "other": Place(evaluated, run.rounds, "other", ours, SHUFFLED),
            "reccot": Place(evaluated, run.rounds, arm, ours, None),
        }
    for name in COMPARISONS:
        stage, arm = in_comparison(name, "evaluate"), comparison_folder(name)
        if split == TEST:
            stage, arm = TEST, f"validator/{arm}"
        own = in_comparison(name, "rec_tune")
        places[name] = Place(stage, -1, arm, own if own in run.validators(stage) else _BASE, name)
    return {name: places[name] for name in _NAMES}


def _difference(ours: Reader | None, other: Reader | None) -> Num | None:
    if ours is None or other is None or ours.answers is None or other.answers is None:
        return None
    return paired_difference(auc, ours.answers, other.answers, "p_yes")


def _caption(run: RunNumbers, split: str) -> str:
    budgets = [run.notes(in_comparison(name, "evaluate")).get("budget_tokens") for name in ("facts", "titles")]
    given = [budget for budget in budgets if budget is not None]
    same = (
        f"Same tokens: V's own prompt and at most {given[0]:,} tokens more, as many as a RecCoT takes on average. "
        if given
        else ""
    )
    return (
        f"Vs on the same {_ROWS[split]} rows by what they read; each but the untuned one was tuned in the same way on "
        "the same rows, with what it reads here. Tokens are those of one question's prompt: history, text and item. "
        f"{same}Differences in AUC are paired; intervals are 95 %, over users only: each V was tuned once."
    )


def _untaught(run: RunNumbers) -> str:
    notes = run.notes(in_comparison("teacher", "rec_tune"))
    if not notes.get("without_text"):
        return ""
    return (
        f"The V with the teacher's text was tuned without a text on {notes['without_text']:,} of "
        f"{notes['histories']:,} histories, about which the teacher was not asked (teacher.init_args.fraction)."
    )


def _listed(names: Sequence[str], word: str = "and") -> str:
    return f" {word} ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
