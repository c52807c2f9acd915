"""The ratings as the run understood them: the page of `trackrec data`, from what the stage ``data`` kept."""

from __future__ import annotations

from trackrec.recipe.names import DATA
from trackrec.report.data.counts import told_counts
from trackrec.report.data.facts import DataFacts, data_facts
from trackrec.report.data.tables import DataTables
from trackrec.report.numbers import RunNumbers
from trackrec.report.render.document import (
    Badge,
    Block,
    Cell,
    Code,
    Figure,
    Missing,
    Notice,
    Num,
    Paragraph,
    Section,
    TableBlock,
)
from trackrec.report.render.figures import bars
from trackrec.report.sections.overview import class_name

_LOG = ("user_id", "item_id", "rating", "timestamp", "row")
_SAMPLES = ("user_id", "item_id", "label", "history_id", "split", "use")


def data_section(run: RunNumbers) -> Section:
    """The facts about the ratings; only what was counted where the run didn't keep them."""
    title = "Data"
    if not run.has(DATA):
        return Section("data", title, [Missing("The stage data isn't done: `trackrec data` shows what it would read.")])
    facts = run_facts(run)
    blocks: list[Block] = []
    if facts is not None:
        blocks += [
            Notice(Badge("stop" if caution.stops else "caution", "bad" if caution.stops else "open"), caution.told)
            for caution in facts.cautions
        ]
        blocks += [Paragraph(_summary(facts)), _ratings_figure(facts), _shares_table(facts), _splits_table(facts)]
    blocks.append(_counts_table(run))
    if facts is not None:
        blocks += _histories(facts)
    return Section("data", title, blocks)


def run_facts(run: RunNumbers) -> DataFacts | None:
    """The facts from the tables of a run; None where it didn't keep the ratings."""
    items, users, histories = (run.table(DATA, name) for name in ("items", "users", "histories"))
    log, samples = run.table(DATA, "interactions", _LOG), run.table(DATA, "samples", _SAMPLES)
    if items is None or users is None or log is None or not len(log):
        return None
    notes = run.notes(DATA)
    kept = DataTables(items, users, log, histories, samples)
    return data_facts(kept, notes, notes["threshold"], run.prompts, class_name(run.saved_config["dataset"]))


def _summary(facts: DataFacts) -> str:
    when = f"from {facts.first} to {facts.last}" if facts.first else "without times: the order of the file is theirs"
    return (
        f"{facts.ratings:,} ratings by {facts.users:,} users of {facts.items:,} items, {when}. "
        f"{facts.like_share:.1%} of them are likes, ratings above {facts.threshold:g}. "
        f"{facts.unrated_items:,} items have no rating; {facts.one_class_users:,} users like all that they rated, or "
        "nothing."
    )


def _ratings_figure(facts: DataFacts) -> Figure:
    named = [(f"{bar.name}, a like" if bar.liked else bar.name, bar.ratings) for bar in facts.histogram]
    rows: list[list[Cell]] = [
        [name, Num(count, unit="count"), Num(count / facts.ratings, unit="share")] for name, count in named
    ]
    panel = bars("Ratings", [(name, float(count), f"{count:,}") for name, count in named])
    numbers = TableBlock("Ratings by value.", ("rating", "ratings", "share"), rows)
    return Figure(f"All ratings by value; those above {facts.threshold:g} are likes.", [panel], numbers, folded=True)


def _shares_table(facts: DataFacts) -> TableBlock:
    rows: list[list[Cell]] = []
    for name, spread, share in (
        ("ratings of a user (10 %, median, 90 %)", facts.per_user, False),
        ("ratings of a rated item (10 %, median, 90 %)", facts.per_item, False),
        ("share of likes of a user (quartiles)", facts.user_like_share, True),
    ):
        values = (spread.low, spread.median, spread.high)
        rows.append([name, *(Num(value, unit="share" if share else "count") for value in values)])
    return TableBlock("How ratings and likes are spread over users and items.", ("what", "low", "median", "high"), rows)


def _splits_table(facts: DataFacts) -> TableBlock:
    rows: list[list[Cell]] = [
        [
            split.name,
            *(Num(float(count), unit="count") for count in (split.samples, split.histories, split.users)),
            Num(split.like_share, unit="share"),
        ]
        for split in facts.splits
    ]
    caption = (
        f"The labelled samples by split. Of the train samples {facts.reward_samples:,} score texts and "
        f"{facts.tune_samples:,} tune V; {facts.scored_histories:,} train histories have both likes and dislikes that "
        "score their texts."
    )
    return TableBlock(caption, ("split", "samples", "histories", "users", "likes"), rows)


def _counts_table(run: RunNumbers) -> TableBlock:
    notes = run.notes(DATA)
    rows: list[list[Cell]] = [[words, Num(count, unit="count")] for words, count in told_counts(notes)]
    threshold = notes.get("threshold")
    rule = "" if threshold is None else f" A rating above {threshold:g} is a like."
    return TableBlock(f"The data after each filter.{rule}", ("what", "count"), rows)


def _histories(facts: DataFacts) -> list[Block]:
    """How many are cut, and the first ones as each reader sees them; once where both see the same."""
    blocks: list[Block] = [Paragraph(f"{cut.told}.") for cut in facts.cuts]
    for shown in facts.histories:
        same = shown.generator == shown.validator
        readers = "G's and V's prompt" if same else "G's prompt"
        blocks.append(Code(f"User {shown.user}, {shown.items} items, in {readers}", shown.generator, "text"))
        if not same:
            blocks.append(Code(f"User {shown.user} in V's prompt", shown.validator, "text"))
    return blocks
