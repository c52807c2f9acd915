"""Guesses which column of the log holds what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import polars as pl

from trackrec.interactions.guess.choices import Candidate, Choose, decide
from trackrec.interactions.guess.look import Column, Look, share
from trackrec.interactions.guess.names import (
    ITEM,
    LABELS,
    NO_RATINGS,
    RATINGS,
    TIMES,
    USER,
    best_word,
    names_one,
    tokens,
)
from trackrec.interactions.guess.scale import Scale, guess_scale, is_scale, span
from trackrec.interactions.guess.times import fitting_units
from trackrec.interactions.source import DataError

_LEAST = 1.0  # of a score
_LEAST_RATING = 3.0
_MOST_IDS = 20_000
_IMPRESSIONS = r"^[^ ]+-[01](?: +[^ ]+-[01])*$"
_ASIN = r"^(?:\d{9}[\dX]|B[0-9A-Z]{9})$"
_SPLITS = frozenset(["train", "training", "valid", "validation", "val", "dev", "test", "testing"])
_HISTORY_WORDS = {"history": 4.0, "hist": 4.0, "past": 3.0, "clicked": 2.0, "sequence": 3.0}
_LIST_SEPARATORS = (" ", ",", "|", ";")


@dataclass
class LogGuess:
    """What the log's columns hold.

    Attributes:
        columns: by the keys of ``columns``; ``why`` says what speaks for each.
        time_unit: of its times.
        scale: of its ratings.
        history_separator: between the entries of its history.
        item_ids: what its items are called.
    """

    columns: dict[str, Candidate] = field(default_factory=dict)
    time_unit: Candidate | None = None
    scale: Scale | None = None
    history_separator: str = " "
    item_ids: pl.Series = field(default_factory=lambda: pl.Series(dtype=pl.String))

    @property
    def signal(self) -> str:
        """What says whether an item was liked: rating, label or impressions."""
        return next(key for key in ("impressions", "rating", "label") if key in self.columns)


def guess_log(log: Look, items: Look | None, users: Look | None, choose: Choose) -> LogGuess:
    """What the columns of a log hold.

    Raises:
        DataError: no column could hold the user, the item, or what the user thought.
    """
    found = LogGuess()
    free = {column.name: column for column in log.columns}

    def take(key: str, candidate: Candidate | None) -> None:
        if candidate is not None:
            found.columns[key] = candidate
            free.pop(candidate.value)

    shown = [Candidate(name, 1.0, "items as N1-1 N2-0") for name, column in free.items() if _is_impressions(column)]
    take("impressions", decide("Which column holds the items shown?", shown, choose))
    found.time_unit = _take_time(log, free, choose, take)
    if "impressions" not in found.columns:
        signal = decide("Which column says what the user thought?", _signals(log, free), choose)
        if signal is None:
            raise _no_rating(log)
        kind, name = signal.value
        if kind == "rating":
            numbers = free[name].numbers
            assert numbers is not None
            found.scale = guess_scale(free[name], numbers)
        take(kind, signal._replace(value=name))
    user = decide("Which column holds the user?", _ids(log, free, USER, users, items), choose)
    if user is None:
        raise _no_id(log, "user", "the user's id into each row: the same in all rows of that user")
    take("user", user)
    if "impressions" in found.columns:
        cells = log.column(found.columns["impressions"].value).texts
        found.item_ids = cells.str.split(" ").explode().str.strip_suffix("-1").str.strip_suffix("-0").unique()
    else:
        item = decide("Which column holds the item?", _ids(log, free, ITEM, items, users), choose)
        if item is None:
            raise _no_id(log, "item", "the item's id, or its title, into each row")
        take("item", item)
        found.item_ids = log.column(item.value).texts.unique()
    splits = [Candidate(name, 1.0, "train, valid and test") for name, column in free.items() if _is_split(column)]
    take("split", decide("Which column holds the published split?", splits, choose))
    lists = {name: fit for name, column in free.items() if (fit := _as_history(column, found.item_ids)) is not None}
    take("history", decide("Which column holds the user's history?", (fit[0] for fit in lists.values()), choose))
    if "history" in found.columns:
        found.history_separator = lists[found.columns["history"].value][1]
    return found


def overlap(ids: pl.Series, others: pl.Series) -> float:
    """The share of different ids that stand among others."""
    some = ids.unique(maintain_order=True)[:_MOST_IDS]
    return share(some.is_in(others.unique().implode()))


def _is_impressions(column: Column) -> bool:
    fits = column.texts.str.contains(_IMPRESSIONS) if not column.is_list else pl.Series([False])
    return column.filled == 1 and bool(fits.all())


def _take_time(log: Look, free: Mapping[str, Column], choose: Choose, take: object) -> Candidate | None:
    times = {name: units for name, column in free.items() if (units := fitting_units(column))}
    candidates = []
    for name, units in times.items():
        word = best_word(name, TIMES)
        if log.form.header and not word and names_one(name, USER | ITEM):
            continue
        score = word + 3 + ("unix" in tokens(name)) * 2 - 2 * ("updated" in tokens(name) or "modified" in tokens(name))
        score -= 6 * (units[0].good < 1)
        candidates.append(Candidate(name, score, units[0].days))
    best = decide("Which column holds the time?", (each for each in candidates if each.score >= _LEAST), choose)
    if best is None:
        return None
    assert callable(take)
    take("timestamp", best)
    days = [Candidate(each.unit, each.good, each.days) for each in times[best.value]]
    return decide("In which order are day and month?", days, choose)


def _signals(log: Look, free: Mapping[str, Column]) -> Iterator[Candidate]:
    """Columns of ratings and of labels; the value is the key of ``columns`` and the name."""
    for name, column in free.items():
        words = tokens(name)
        against = 6 * bool(set(words) & NO_RATINGS and not set(words) & set(RATINGS) and "play" not in words)
        if column.is_list or column.distinct < 2:
            continue
        place = 0.5 * column.place * (not log.form.header)
        empty = (column.filled < 1) * 1.0
        if set(column.texts.str.to_lowercase().unique()) <= {"0", "1", "0.0", "1.0", "true", "false"}:
            score = best_word(name, LABELS) + 1 + 2 * (not log.form.header) + place - empty - against
            if score >= _LEAST_RATING:
                yield Candidate(("label", name), score, f"1 in {_share_of_ones(column):.0%} of the rows")
        elif column.numbers is not None:
            word = best_word(name, RATINGS) or 7.0 * ("play" in words and "count" in words)
            grades = is_scale(column.numbers)
            id_like = names_one(name, USER | ITEM) and not word
            amount = 2 if not log.form.header and column.numbers.n_unique() > 1 else 0.5
            score = word + (3 if grades else amount) + place - empty - against - 8 * id_like
            if score >= _LEAST_RATING - (not log.form.header):
                yield Candidate(("rating", name), score, span(column.numbers))


def _share_of_ones(column: Column) -> float:
    return share(column.texts.str.to_lowercase().is_in(["1", "1.0", "true"]))


def _ids(
    log: Look, free: Mapping[str, Column], words: frozenset[str], own: Look | None, other: Look | None
) -> Iterator[Candidate]:
    """Columns that could hold the id of users or items; ``own`` is the file that tells of these."""
    beside = {"name"} if words is USER else {"parent"}
    for name, column in free.items():
        if column.is_list or column.texts.is_empty():
            continue
        named = names_one(name, words, beside)
        score = 8.0 * named + ("parent" in tokens(name)) - (0.4 if not log.form.header else 0.1) * column.place
        score += 2 if column.repeats >= 1.2 and column.distinct > 1 else -2 if named else -5
        score += not column.texts.str.contains(" ").any()
        score -= 6 * (column.filled < 1) + 8 * names_one(name, USER | ITEM if not named else set())
        score -= 4 * (column.numbers is not None and bool((column.numbers % 1 != 0).any()))
        if words is ITEM:
            score += bool(column.texts.str.contains(_ASIN).all())
        why = f"{column.distinct:,} of them, {column.repeats:.0f} rows each"
        share, match = _best_match(column, own)
        if share > 0.5:
            score += 6 * share
            why += f", {share:.0%} of them in {match!r} of {own.paths[0].name}" if own else ""
        elif not log.form.header:
            score -= 4 * (_best_match(column, other)[0] > 0.5)
        if score >= _LEAST:
            yield Candidate(name, score, why)


def _best_match(column: Column, look: Look | None) -> tuple[float, str]:
    """The share of a column's ids that stand in one column of another file, and that column."""
    keys = () if look is None else (each for each in look.columns if is_key(each))
    return max(((overlap(column.texts, each.texts), each.name) for each in keys), default=(0.0, ""))


def is_key(column: Column) -> bool:
    """Whether a column tells the rows of its file apart."""
    return not column.is_list and column.filled == 1 and column.repeats < 1.1


def _is_split(column: Column) -> bool:
    if column.is_list or column.filled < 1 or column.distinct > 5:
        return False
    words = set(column.texts.str.to_lowercase().unique())
    return words <= _SPLITS and any(word.startswith("t") and "r" in word for word in words) and len(words) > 1


def _as_history(column: Column, ids: pl.Series) -> tuple[Candidate, str] | None:
    """The column as one of lists of item ids, with what is between them."""
    if column.is_list:
        lists = [(" ", column.texts, column.repeats)]
    else:
        lists = [(each, column.texts.str.split(each).explode(), 0.0) for each in _LIST_SEPARATORS]
    for separator, entries, _ in lists:
        many = column.is_list or len(entries) > 1.2 * len(column.texts)
        # Of all entries, not of the different ones: a title such as "Film 24" has a number that is an item's id.
        known = share(entries.is_in(ids.unique().implode())) if many else 0.0
        if known > 0.6:
            score = 1 + known + best_word(column.name, _HISTORY_WORDS)
            return Candidate(
                column.name, score, f"lists of item ids, {len(entries) / len(column.texts):.0f} each"
            ), separator
    return None


def _no_id(log: Look, what: str, remedy: str) -> DataError:
    return DataError(
        f"--ratings: no column of {log.paths[0]} could hold the {what}. It has {_listed(log)}. Such a column has no "
        f"empty cell, and its values stand in several rows. Write {remedy}."
    )


def _no_rating(log: Look) -> DataError:
    return DataError(
        f"--ratings: no column of {log.paths[0]} says what a user thought: it has {_listed(log)}. If every row is a "
        "like (a purchase, a play), there is nothing to tell apart: add a column with 1 for these rows, and rows with "
        "0 for items that the user saw and left. Counts of plays or hours are ratings too."
    )


def _listed(log: Look) -> str:
    names = ", ".join(column.name for column in log.columns[:12])
    return f"the columns {names}" + (" and more" if len(log.columns) > 12 else "")
