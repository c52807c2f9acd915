"""The facts about the ratings as one screen of a terminal: about 50 lines of 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from trackrec.report.data.cautions import Caution
from trackrec.report.data.facts import Bar, DataFacts
from trackrec.runtime.terminal_text import printable

_BAR = 40
_BREAK = "⏎"
_PROMPT_LINES = 3


def look_lines(facts: DataFacts, width: int = 100) -> list[str]:
    """What `trackrec data` prints.

    Args:
        facts: about the ratings.
        width: of the terminal.
    """
    blocks = [
        _ratings(facts),
        _samples(facts),
        _losses(facts),
        [line for caution in facts.cautions for line in _caution(caution, width)],
        _prompts(facts, width),
    ]
    lines: list[str] = []
    for block in filter(None, blocks):
        lines += ["", *block] if lines else block
    return [printable(line, keep="") for line in lines]


def _ratings(facts: DataFacts) -> list[str]:
    when = f"{facts.first} to {facts.last}" if facts.first else "no times: the order of the file"
    unrated = f" ({facts.unrated_items:,} unrated)" if facts.unrated_items else ""
    own, user, item = facts.user_like_share, facts.per_user, facts.per_item
    one_class = f"           {facts.one_class_users:,} users like all that they rated, or nothing"
    return [
        f"{facts.ratings:,} ratings by {facts.users:,} users of {facts.items:,} items{unrated}, {when}",
        *_histogram(facts.histogram, facts.threshold),
        f"likes      {facts.like_share:.1%} of the ratings; quartiles of the users' own shares: {own.low:.0%}, "
        f"{own.median:.0%}, {own.high:.0%}",
        *([one_class] if facts.one_class_users else []),
        f"per user   {user.median:,} ratings (median); 10 % have at most {user.low:,}, 10 % at least {user.high:,}",
        f"per item   {item.median:,} ratings (median); 10 % have at most {item.low:,}, 10 % at least {item.high:,}",
    ]


def _histogram(bars: Sequence[Bar], threshold: float) -> list[str]:
    most, total = max(bar.ratings for bar in bars), sum(bar.ratings for bar in bars)
    wide = max(len(bar.name) for bar in bars)
    lines = [
        f"  {bar.name:>{wide}}  {'█' * round(_BAR * bar.ratings / most) or '▏':{_BAR}}  {bar.ratings:>11,}  "
        f"{bar.ratings / total:6.1%}"
        for bar in bars
    ]
    place = sum(not bar.liked for bar in bars)
    lines.insert(place, f"  {'─' * wide}  likes are above {threshold:g} (samples.threshold changes it)")
    return lines


def _samples(facts: DataFacts) -> list[str]:
    if not facts.splits:
        return []
    lines = [f"{'split':10}{'samples':>12}{'histories':>12}{'users':>10}{'likes':>9}"]
    for split in facts.splits:
        share = f"{split.like_share:.1%}" if split.samples else "-"
        lines.append(f"{split.name:10}{split.samples:>12,}{split.histories:>12,}{split.users:>10,}{share:>9}")
    lines[1] += f"   {facts.reward_samples:,} score texts, {facts.tune_samples:,} tune V"
    if facts.only_history:
        lines.append(f"{'none':10}{facts.only_history:>12,}   ratings are no samples: they make up histories")
    able, all_ = facts.scored_histories, facts.splits[0].histories
    return [*lines, f"{able:,} of the {all_:,} train histories have both likes and dislikes that score their texts"]


def _losses(facts: DataFacts) -> list[str]:
    if not facts.left_out:
        return ["Nothing was left out."]
    rows = ((f"{loss.count:>10,}  {loss.what}", f"  ({loss.key})" if loss.key else "") for loss in facts.left_out)
    return ["left out", *(what + key for what, key in rows)]


def _caution(caution: Caution, width: int) -> list[str]:
    head = "`trackrec fit` stops here" if caution.stops else "caution"
    return textwrap.wrap(f"{head}: {caution.told}", width, subsequent_indent="  ")


def _prompts(facts: DataFacts, width: int) -> list[str]:
    """The histories as both readers see them; of the first one, what each is asked."""
    if not facts.histories:
        return []
    lines = [f"What the generator G and the validator V read of a history ({_BREAK} is a line break):"]
    lines += [f"  {cut.told}" for cut in facts.cuts]
    for shown in facts.histories:
        lines.append(f"user {shown.user}, {shown.items} items")
        lines += _reader("G", shown.generator, width)
        lines += ["  V  the same"] if shown.validator == shown.generator else _reader("V", shown.validator, width)
    first = facts.histories[0]
    for name, prompt, history in (
        ("G", facts.generator_prompt, first.generator),
        ("V", facts.validator_prompt, first.validator),
    ):
        ask = f" {_BREAK} ".join(line for line in prompt.removeprefix(history).splitlines() if line)
        lines += textwrap.wrap(f"then {name}: {ask}", width, subsequent_indent="  ")[:_PROMPT_LINES]
    return lines


def _reader(name: str, history: str, width: int) -> list[str]:
    """A history as a reader's prompt shows it, in at most `_PROMPT_LINES`: its beginning and its newest items."""
    head, *items = history.splitlines()
    room = _PROMPT_LINES * (width - 5) - 40  # wrapping loses some
    start = textwrap.shorten(head, room, placeholder=" …")
    shown: list[str] = []
    while items and len(f" {_BREAK} ".join([start, items[-1], *shown])) <= room:
        shown.insert(0, items.pop())
    if items:
        shown.insert(0, f"… {len(items)} more …")
    text = f" {_BREAK} ".join([start, *shown])
    return textwrap.wrap(text, width, initial_indent=f"  {name}  ", subsequent_indent="     ")
