"""All guesses about the files of a data set, as the sections of a configuration."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trackrec.interactions.guess.choices import Choose, decide
from trackrec.interactions.guess.domain import guess_domain, habit_words
from trackrec.interactions.guess.form import common_form, published_splits
from trackrec.interactions.guess.log import LogGuess, guess_log
from trackrec.interactions.guess.look import Look, look_at
from trackrec.interactions.guess.people_and_items import ItemGuess, UserGuess, guess_items, guess_users
from trackrec.interactions.sources.table import Table
from trackrec.interactions.sources.text_format import TextFormat

_MOVIELENS = {"u.data": "u.item", "ratings.dat": "movies.dat", "ratings.csv": "movies.csv"}
_MOVIELENS_HEADER = "userId,movieId,rating,timestamp"
_ENDINGS = (".gz", ".bz2", ".xz", ".zst", ".zip")


@dataclass
class Draft:
    """Sections of a configuration, and what speaks for each value.

    Attributes:
        source: the class of ``dataset``.
        args: its ``init_args``, where they differ from the defaults.
        samples: the section ``samples``, likewise.
        prompts: the words of the domain.
        why: by the dotted key of a value, ``dataset`` being ``args``.
        threshold: a rating above this is a like.
        looks: what was seen, by ``ratings``, ``items``, ``users``; none where the files are known by their names.
    """

    source: str
    args: dict[str, Any]
    threshold: float
    samples: dict[str, Any] = field(default_factory=dict)
    prompts: dict[str, Any] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    looks: dict[str, Look] = field(default_factory=dict)


def make_draft(places: Mapping[str, str], choose: Choose) -> Draft:
    """The sections for the files at ``ratings`` and, where given, ``items`` and ``users``.

    Args:
        places: by these keys.
        choose: decides where guesses are close.

    Raises:
        DataError: a file can't be read, or its columns don't tell what they hold.
    """
    if (known := _published(Path(places["ratings"]))) is not None:
        return known
    looks = {key: look_at(where, key) for key, where in places.items()}
    log, items, users = looks["ratings"], looks.get("items"), looks.get("users")
    form = common_form(looks)
    found = guess_log(log, items, users, choose)
    of_items = guess_items(log, found, items, choose)
    of_users = guess_users(log, found, users, choose)
    draft = Draft("Table", {}, 0.5, looks=looks)
    for key, look in looks.items():
        draft.args[key] = look.where
        draft.why[f"args.{key}"] = _seen(look)
    splits = {} if "split" in found.columns or len(log.paths) == 1 else published_splits(log.paths)
    if splits:
        draft.args["ratings"] = {split: str(path) for split, path in splits.items()}
    _describe(draft, found, of_items, of_users)
    text = _text(form, found, of_items)
    if text:
        draft.args["text"] = text
        draft.why["args.text"] = "how the files are written"
    _set_threshold(draft, found, choose)
    if found.time_unit is not None and found.time_unit.value != "s":
        draft.args["time_unit"] = found.time_unit.value
        draft.why["args.time_unit"] = found.time_unit.why
    if broken := sum(look.broken for look in looks.values()):
        draft.args["bad_rows"] = "drop"
        draft.why["args.bad_rows"] = f"{broken:,} of the rows looked at have too few or too many fields"
    _set_samples(draft, found, bool(splits))
    _set_prompts(draft, found, of_users)
    return draft


def _describe(draft: Draft, found: LogGuess, of_items: ItemGuess, of_users: UserGuess) -> None:
    """The groups ``columns``, ``item_columns`` and ``user_columns``."""
    order = ("user", "item", "rating", "label", "impressions", "timestamp", "split", "history")
    groups: dict[str, dict[str, Any]] = {"columns": {}, "item_columns": {}, "user_columns": {}}
    for key in order:
        if key in found.columns:
            groups["columns"][key] = found.columns[key].value
            draft.why[f"args.columns.{key}"] = found.columns[key].why
    named = dict(of_items.columns)
    item = found.columns.get("item")
    if item is not None and "id" in named and named["id"].value == item.value:
        named.pop("id")  # its default
    for key in ("id", "title", "year"):
        if key in named:
            groups["item_columns"][key] = named[key].value
            draft.why[f"args.item_columns.{key}"] = named[key].why
    for group, key, chosen in (
        ("item_columns", "attributes", of_items.attributes),
        ("user_columns", "attributes", of_users.attributes),
    ):
        if chosen:
            names = [each.value for each in chosen]
            groups[group][key] = names[0] if len(names) == 1 and group == "item_columns" else names
            draft.why[f"args.{group}.{key}"] = "; ".join(each.why for each in chosen)
    if of_users.id is not None and of_users.id.value != found.columns["user"].value:
        groups["user_columns"] = {"id": of_users.id.value, **groups["user_columns"]}
        draft.why["args.user_columns.id"] = of_users.id.why
    if "users" in draft.args and not of_users.attributes:
        draft.why["args.users"] += "; no column is known to tell of people: name some in user_columns.attributes"
    draft.args |= {group: values for group, values in groups.items() if values}


def _text(form: TextFormat, found: LogGuess, of_items: ItemGuess) -> dict[str, Any]:
    """The keys of ``text`` that differ from its defaults."""
    own = {
        **{key: getattr(form, key) for key in ("separator", "header", "quote", "escape", "format")},
        "history_separator": found.history_separator,
        "attribute_separator": of_items.attribute_separator,
    }
    return {key: value for key, value in own.items() if value != getattr(TextFormat(), key)}


def _set_threshold(draft: Draft, found: LogGuess, choose: Choose) -> None:
    scale = found.scale
    if scale is None:
        return
    best = decide("Above which rating is an item liked?", scale.thresholds, choose)
    assert best is not None
    draft.threshold = draft.args["threshold"] = best.value
    draft.why["args.threshold"] = best.why
    if scale.missing is not None and "missing_ratings" in inspect.signature(Table).parameters:
        draft.args["missing_ratings"] = [scale.missing]
        draft.why["args.missing_ratings"] = f"{scale.missing:g} below whole grades from 1 seems to stand for no rating"


def _set_samples(draft: Draft, found: LogGuess, splits: bool) -> None:
    if splits or "split" in found.columns:
        draft.samples["protocol"] = "given"
        draft.why["samples.protocol"] = "the splits that are published"
    elif "timestamp" not in found.columns:
        draft.samples["protocol"] = "user"
        draft.why["samples.protocol"] = "no column of times: whole users are held out"
    if "history" in found.columns:
        draft.samples["per"] = "sample"
        draft.why["samples.per"] = "each row has a history of its own"


def _set_prompts(draft: Draft, found: LogGuess, of_users: UserGuess) -> None:
    item = found.columns["item"].value if "item" in found.columns else ""
    files = [look.paths[0].name for key, look in draft.looks.items() if key != "users"]
    names = [column.name for key, look in draft.looks.items() if key != "users" for column in look.columns]
    domain = guess_domain(item, files, names)
    amount = found.scale is not None and found.scale.amount
    draft.prompts = {"item": domain.item, "items": domain.items, "user": domain.user}
    # Without a header the file's name is all that says what the numbers count.
    signal = found.columns[found.signal].value
    counted = signal if draft.looks["ratings"].form.header else files[0]
    draft.prompts |= habit_words(found.signal, counted, amount)
    draft.why["prompts.item"] = domain.why
    if of_users.attributes:
        draft.prompts["user_attributes"] = True
        draft.why["prompts.user_attributes"] = "prompts tell what is known of a user"


def _seen(look: Look) -> str:
    more = f", the first of {len(look.paths)} files" if len(look.paths) > 1 else ""
    rows = f"{look.rows:,} rows" if look.whole else f"the first {look.rows:,} rows were looked at"
    kind = f"fields between {json.dumps(look.form.separator)}" if look.has_fields else look.kind
    return f"{kind}; {rows}{more}"


def _published(ratings: Path) -> Draft | None:
    """MovieLens as GroupLens ships it and Amazon's books, which have sources of their own."""
    folder, grades = ratings.parent, {"rated": "rated", "like": "like"}
    if ratings.is_file() and (folder / _MOVIELENS.get(ratings.name, "\0")).is_file() and _is_movielens(ratings):
        film = {"item": "film", "items": "films", "user": "viewer", **grades}
        why = {"args.root": f"{ratings.name} and {_MOVIELENS[ratings.name]} are MovieLens as GroupLens ships it"}
        why["args.threshold"] = "up to 5 stars: liked above 3"
        return Draft("MovieLens", {"root": str(folder), "threshold": 3.0}, 3.0, prompts=film, why=why)
    plain = ratings.name.removesuffix(next((end for end in _ENDINGS if ratings.name.endswith(end)), "\0"))
    if plain in ("Books.jsonl", "Books.json", "Books_5.json") and ratings.is_file() and _has_meta(folder):
        book = {"item": "book", "items": "books", "user": "reader", **grades}
        why = {"args.root": f"{ratings.name} and its metadata are Amazon's books"}
        why["args.threshold"] = "1 to 5 stars: liked above 3; with 4 only five stars are a like"
        args = {"root": str(folder), "reviews": ratings.name, "threshold": 3.0}
        return Draft("AmazonBook", args, 3.0, prompts=book, why=why)
    return None


def _is_movielens(ratings: Path) -> bool:
    """Whether a file that is called like MovieLens' has their header, if it is one of those that have one."""
    if ratings.suffix != ".csv":
        return True
    with ratings.open(encoding="utf-8", errors="replace") as file:
        return file.readline().strip() == _MOVIELENS_HEADER


def _has_meta(folder: Path) -> bool:
    names: Sequence[str] = ("meta_Books.json", "meta_Books.jsonl")
    return any((folder / f"{name}{end}").is_file() for name in names for end in ("", *_ENDINGS))
