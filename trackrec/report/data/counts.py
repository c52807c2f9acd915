"""What the stage ``data`` counted, in plain words: read, left out and why, kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from trackrec.interactions.sources.columns import ARGS

HIDDEN = {"threshold"}


class _Words(NamedTuple):
    """The words for a count, whether it is a loss, and the key that changes it, if one does."""

    text: str
    lost: bool = False
    key: str = ""


@dataclass(frozen=True)
class LeftOut:
    """So many of something were left out; ``key`` may change that, and is empty where none does."""

    count: int
    what: str
    key: str


# In the order in which the filters apply; counts that aren't listed follow under their own names.
_COUNTS = {
    "ratings_read": _Words("ratings read"),
    "bad_rows": _Words("rows of the ratings that can't be read", True, f"{ARGS}.bad_rows"),
    "bad_item_rows": _Words("rows of the items' file that can't be read", True, f"{ARGS}.bad_rows"),
    "bad_user_rows": _Words("rows of the users' file that can't be read", True, f"{ARGS}.bad_rows"),
    "duplicate_items": _Words("rows of items that stood in the file before", True),
    "duplicate_users": _Words("rows of users who stood in the file before", True),
    "ratings_of_unknown_items": _Words("ratings of items that the items' file doesn't have", True),
    "ratings_of_untitled_items": _Words("ratings of items without a title", True, f"{ARGS}.untitled"),
    "duplicate_ratings": _Words("further ratings of an item by the same user", True),
    "ratings_outside_core": _Words(
        "ratings of users or items that have too few", True, f"{ARGS}.min_user_ratings, min_item_ratings"
    ),
    "history_items_unknown": _Words("entries of published histories whose item is unknown", True),
    "users_without_row": _Words("users that the users file doesn't describe (kept)"),
    "items_without_title": _Words("items without a title (called by their id)"),
    "html_titles": _Words("titles that were HTML (mended)"),
    "unescaped_titles": _Words("titles with HTML entities (mended)"),
    "author_pages": _Words("authors taken from a page of the shop"),
    "millisecond_times": _Words("times in milliseconds (mended)"),
    "ratings": _Words("ratings kept"),
    "users": _Words("users"),
    "items": _Words("items"),
    "published_lists": _Words("published histories"),
    "published_train": _Words("ratings published as train"),
    "published_valid": _Words("ratings published as validation"),
    "published_test": _Words("ratings published as test"),
    "histories": _Words("histories"),
    "ties_dropped": _Words("ratings in the same second as their history (no samples)", True, "samples.strict_ties"),
    "short_histories": _Words("ratings whose published history is too short (no samples)", True, "samples.min_history"),
    "future_history_items": _Words("entries of published histories that the user rated only later", True),
    "users_without_samples": _Words("users who have no sample: all they rated is history", True, "samples.history_len"),
    "samples": _Words("labelled samples"),
    "without_history": _Words("samples of users without a history yet"),
    "likes": _Words("likes among them"),
    "train": _Words("train samples"),
    "valid": _Words("validation samples"),
    "test": _Words("test samples"),
    "reward": _Words("train samples for rewards (use: reward)"),
    "tune": _Words("train samples for tuning V (use: tune)"),
}


def left_out(counts: Mapping[str, object]) -> tuple[LeftOut, ...]:
    """Every loss that isn't zero, in the order of the filters."""
    rows = [(key, words) for key, words in _COUNTS.items() if words.lost]
    return tuple(
        LeftOut(count, words.text, words.key)
        for key, words in rows
        if isinstance(count := counts.get(key), int) and count
    )


def told_counts(counts: Mapping[str, object]) -> list[tuple[str, float]]:
    """Every count with its words, in the order of the filters; unknown ones last."""
    keys = [*(key for key in _COUNTS if key in counts), *(key for key in counts if key not in _COUNTS)]
    told = []
    for key in keys:
        value, words = counts[key], _COUNTS.get(key, _Words(key.replace("_", " ")))
        if isinstance(value, int | float) and key not in HIDDEN:
            told.append((f"left out: {words.text}" if words.lost else words.text, float(value)))
    return told
