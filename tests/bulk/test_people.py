"""Who needs a text, and why."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from made_bulk import DAY, NOW

from trackrec.bulk.people import people_of
from trackrec.bulk.settings import BulkSettings, RefreshPolicy, Tier
from trackrec.runtime.errors import SettingError
from trackrec.storage.generations import TEXTS

TIERS = [Tier("full", 7), Tier("small", 90), Tier("profile", writer="profile")]
VERSIONS = {"full": "g@2", "small": "s@1", "profile": "profile@1"}


def rated(user: str, times: int, days_ago: float = 1) -> pl.DataFrame:
    return pl.DataFrame({"user_id": [user] * times, "timestamp": [int(NOW - days_ago * DAY)] * times})


def before(**values: Any) -> pl.DataFrame:
    row = {"user_id": "u", "text": "t", "vector": None, "prompt_hash": "h", "n_ratings": 10, "newest": 0}
    row |= {"tier": "full", "generator": "g@2", "encoder": "", "made_at": NOW - 5 * DAY, "status": "written"}
    found = pl.from_arrow(__import__("pyarrow").Table.from_pylist([row | values], schema=TEXTS))
    assert isinstance(found, pl.DataFrame)
    return found


def reason(ratings: pl.DataFrame, last: pl.DataFrame | None, everyone: bool = False, **policy: Any) -> str:
    settings = BulkSettings(tiers=TIERS, policy=RefreshPolicy(**policy))
    (row,) = people_of(ratings, last, settings, VERSIONS, NOW, everyone).iter_rows(named=True)
    return str(row["reason"])


def test_a_user_without_a_text_is_new() -> None:
    assert reason(rated("u", 1), None) == "new"
    assert reason(rated("v", 1), before()) == "new"


@pytest.mark.parametrize(
    ("had", "have", "policy", "expected"),
    [
        (10, 10, {}, "kept"),
        (10, 11, {}, "grown"),  # a tenth more
        (100, 102, {}, "kept"),
        (100, 103, {}, "grown"),  # three more
        (10, 11, {"min_share": None}, "kept"),
        (100, 109, {"min_new": None}, "kept"),
        (100, 110, {"min_new": None}, "grown"),
        (10, 99, {"min_new": None, "min_share": None}, "kept"),
        (10, 9, {}, "kept"),  # a rating was taken back
    ],
)
def test_new_ratings_by_number_or_by_share(had: int, have: int, policy: dict[str, Any], expected: str) -> None:
    assert reason(rated("u", have), before(n_ratings=had), **policy) == expected


def test_age_another_generator_and_all() -> None:
    assert reason(rated("u", 10), before(), max_age_days=5) == "old"
    assert reason(rated("u", 10), before(), max_age_days=5.1) == "kept"
    assert reason(rated("u", 10), before(generator="g@1")) == "generator"
    assert reason(rated("u", 10), before(), everyone=True) == "all"


@pytest.mark.parametrize(("days", "tier"), [(0, "full"), (7, "full"), (7.1, "small"), (90, "small"), (91, "profile")])
def test_the_tier_is_by_the_last_rating(days: float, tier: str) -> None:
    settings = BulkSettings(tiers=TIERS)
    assert people_of(rated("u", 1, days), None, settings, VERSIONS, NOW)["tier"].to_list() == [tier]


def test_who_rises_gets_a_better_text_and_who_falls_keeps_theirs() -> None:
    assert reason(rated("u", 10, 1), before(tier="profile", generator="profile@1")) == "generator"
    assert reason(rated("u", 10, 200), before(tier="full", generator="g@1")) == "kept"
    assert reason(rated("u", 10, 200), before(tier="gone", generator="x")) == "generator"  # no tier has that name


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: BulkSettings(tiers=[]), r"bulk\.tiers must name at least one"),
        (lambda: BulkSettings(tiers=[Tier("a", 3)]), "the last has none"),
        (lambda: BulkSettings(tiers=[Tier("a"), Tier("b")]), "every tier but the last has active_days"),
        (lambda: BulkSettings(tiers=[Tier("a", 9), Tier("b", 3), Tier("c")]), "must grow from tier to tier"),
        (lambda: BulkSettings(tiers=[Tier("a", 9), Tier("a")]), "a name repeats"),
        (lambda: Tier("../up"), "small letters"),
        (lambda: Tier("a", 0), "active_days must be above 0"),
        (lambda: RefreshPolicy(min_new=0), r"bulk\.policy\.min_new must be above 0 or null, got 0"),
        (lambda: BulkSettings(part_users=0), r"bulk\.part_users must be at least 1"),
        (lambda: BulkSettings(max_failed=2), r"bulk\.max_failed must be a share"),
    ],
)
def test_settings_that_do_not_fit_name_their_key(make: Any, text: str) -> None:
    with pytest.raises(SettingError, match=text):
        make()
