"""Guesses what the files of items and of users tell, or the log's own columns where there is no such file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import polars as pl

from trackrec.interactions.guess.choices import Candidate, Choose, decide
from trackrec.interactions.guess.log import LogGuess, is_key, overlap
from trackrec.interactions.guess.look import Column, Look, share
from trackrec.interactions.guess.names import (
    ABOUT_USERS,
    ATTRIBUTES,
    ITEM,
    TITLES,
    USER,
    WHOLE,
    YEARS,
    best_word,
    names_one,
    tokens,
)
from trackrec.interactions.source import DataError

_SEPARATORS = ("|", ";", ",", "/")
_MOST_ATTRIBUTES = 2
_LEAST_ATTRIBUTE = 5.0
_ADDRESS = r"^(?:https?:|www\.|/)"
_YEAR = r"(?:^|\D)(\d{4})(?:\D|$)"


@dataclass
class ItemGuess:
    """What is told of items: columns by the keys of ``item_columns``, and what separates the attributes in a cell."""

    columns: dict[str, Candidate] = field(default_factory=dict)
    attributes: list[Candidate] = field(default_factory=list)
    attribute_separator: str = "|"


@dataclass
class UserGuess:
    """What is told of users: the column of their id, and those to show."""

    id: Candidate | None = None
    attributes: list[Candidate] = field(default_factory=list)


def guess_items(log: Look, found: LogGuess, items: Look | None, choose: Choose) -> ItemGuess:
    """What is told of items.

    Raises:
        DataError: no column of ``items`` holds the ids of the log.
    """
    guess = ItemGuess()
    if items is None:
        taken = {each.value for each in found.columns.values()}
        columns = [each for each in log.columns if each.name not in taken]
        columns = _told_by(log, found.columns["item"].value, columns) if "item" in found.columns else []
        header = log.form.header
    else:
        log_name = found.columns["item"].value if "item" in found.columns else None
        guess.columns["id"] = _id(items, found.item_ids, log_name, ITEM, "items", choose)
        columns = [each for each in items.columns if each.name != guess.columns["id"].value]
        header = items.form.header or not items.has_fields
    titles = list(_titles(columns, header))
    title = decide("Which column holds the title?", titles, choose)
    if title is not None:
        guess.columns["title"] = title
        columns = [each for each in columns if each.name != title.value]
    years = (Candidate(each.name, best_word(each.name, YEARS), _examples(each)) for each in columns if _is_year(each))
    year = decide("Which column holds the year?", years, choose)
    if year is not None:
        guess.columns["year"] = year
    guess.attributes = _attributes(columns, header, len(found.item_ids))
    split = [each for each in columns if each.name in {one.value for one in guess.attributes}]
    guess.attribute_separator = _separator(split)
    return guess


def guess_users(log: Look, found: LogGuess, users: Look | None, choose: Choose) -> UserGuess:
    """What is told of users.

    Raises:
        DataError: no column of ``users`` holds the ids of the log.
    """
    guess = UserGuess()
    user = found.columns["user"].value
    if users is None:
        taken = {each.value for each in found.columns.values()}
        columns = [each for each in _told_by(log, user, log.columns) if each.name not in taken]
        named = True
    else:
        guess.id = _id(users, log.column(user).texts.unique(), user, USER, "users", choose)
        columns = [each for each in users.columns if each.name != guess.id.value]
        named = users.form.header or not users.has_fields
    for column in columns:
        if column.is_list or column.distinct < 2:
            continue
        fits = bool(set(tokens(column.name)) & ABOUT_USERS) if named else _describes(column)
        if fits:
            guess.attributes.append(Candidate(column.name, 1.0, _examples(column)))
    return guess


def _id(look: Look, ids: pl.Series, name: str | None, words: frozenset[str], key: str, choose: Choose) -> Candidate:
    candidates = []
    for column in look.columns:
        share = overlap(ids, column.texts) if not column.is_list else 0.0
        if share > 0 and column.filled > 0:
            score = 6 * share + 3 * (column.name == name) + names_one(column.name, words) + 2 * is_key(column)
            candidates.append(Candidate(column.name, score, f"{share:.0%} of the log's ids looked at are here"))
    best = decide(f"Which column of {look.paths[0].name} holds the id?", candidates, choose)
    if best is None and name is not None and not look.whole and any(each.name == name for each in look.columns):
        return Candidate(name, 1.0, "as in the log; its first rows hold none of the ids looked at")
    if best is None:
        names, some = ", ".join(column.name for column in look.columns[:12]), ", ".join(map(repr, ids[:3]))
        raise DataError(
            f"--{key}: no column of {look.paths[0]} holds the ids of --ratings, such as {some}: "
            f"it has the columns {names}. Is it the file of another data set?"
        )
    return best


def _told_by(log: Look, key: str, columns: Sequence[Column]) -> list[Column]:
    """The columns that have one value for each value of another."""
    found = []
    for column in columns:
        if column.name == key or column.is_list:
            continue
        pairs = pl.DataFrame({"key": log.column(key).cells, "value": column.cells}).filter(pl.col("value") != "")
        if pairs.is_empty() or column.distinct < 2:
            continue
        if pairs.n_unique() <= 1.02 * pairs["key"].n_unique():
            found.append(column)
    return found


def _titles(columns: Sequence[Column], header: bool) -> Iterator[Candidate]:
    for column in columns:
        if column.is_list or column.distinct < 2 or (column.numbers is not None and not header):
            continue
        if bool(column.texts.str.contains(_ADDRESS).any()):
            continue
        word = best_word(column.name, TITLES) * (not set(tokens(column.name)) & {"author", "publisher", "user"})
        words = column.texts.str.count_matches(r"\S+")
        text = 1 < share(words) < 15 and column.repeats < 1.5
        score = word - 2 * (column.filled < 0.95) if header else 5.0 * text - 0.5 * column.place
        if score > 1:
            yield Candidate(column.name, score, _examples(column))


def _attributes(columns: Sequence[Column], header: bool, items: int) -> list[Candidate]:
    """The best columns of kinds. A column with one value for all items counts only where there is no other."""
    found = []
    for column in columns:
        if column.texts.is_empty() or bool(column.texts.str.contains(r"^[\[{]").all()):
            continue
        if header:
            score = best_word(column.name, ATTRIBUTES) - 5 * bool({"id", "count"} & set(tokens(column.name)))
        else:
            kinds = column.distinct <= items / 3 and column.numbers is None and column.distinct > 1
            score = (10.0 - 0.5 * column.place) * kinds
        if score >= _LEAST_ATTRIBUTE - (not header):
            found.append(Candidate(column.name, score - 6 * (column.distinct < 2), _examples(column)))
    found.sort(key=lambda each: -each.score)
    telling = [each for each in found if each.score >= _LEAST_ATTRIBUTE - (not header)]
    return telling[:_MOST_ATTRIBUTES] or found[:1]


def _separator(columns: Sequence[Column]) -> str:
    """What stands between the attributes of a cell; "|" where cells hold one."""
    for separator in _SEPARATORS:
        for column in columns:
            if column.is_list or (separator == "," and set(tokens(column.name)) & WHOLE):
                continue
            if share(column.texts.str.contains(separator, literal=True)) > 0.05:
                return separator
    return "|"


def _is_year(column: Column) -> bool:
    if column.is_list or not best_word(column.name, YEARS) or column.texts.is_empty():
        return False
    return bool(column.texts.str.contains(_YEAR).all())


def _describes(column: Column) -> bool:
    """Whether a column without a name looks like one that tells of people: few different words, or ages."""
    if column.numbers is not None:
        return bool(column.numbers.is_between(0, 120).all()) and bool((column.numbers % 1 == 0).all())
    return column.distinct <= max(len(column.texts) / 3, 3)


def _examples(column: Column) -> str:
    some = ", ".join(column.texts.filter(column.texts != "NULL").unique(maintain_order=True)[:2])
    return f"{some[:50].rstrip()}{'...' if len(some) > 50 else ''}"
