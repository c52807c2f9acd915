"""A small user base for the tests of refreshes: ratings, a catalogue and a writer that counts what it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
from tiny import frame

from trackrec.bulk.log import sort_log
from trackrec.bulk.part import ITEMS, LOG, USERS, PartWriter, TierPrompts
from trackrec.bulk.settings import BulkSettings
from trackrec.bulk.writers import TextWriter, Written
from trackrec.prompts.book import PromptBook
from trackrec.prompts.settings import PromptSettings

DAY = 86_400
NOW = 1_000 * DAY


def ratings(users: int = 20, each: int = 4, extra: Sequence[tuple[str, str]] = ()) -> pl.DataFrame:
    """Each user rated items i0, i1, ... one a day, the last ``user`` days before `NOW`; then the extra pairs, now."""
    rows = [
        {"user_id": f"u{user:02d}", "item_id": f"i{(user + place) % 10}", "rating": float(1 + (user + place) % 5)}
        | {"timestamp": NOW - (user + each - place) * DAY}
        for user in range(users)
        for place in range(each)
    ]
    rows += [{"user_id": user, "item_id": item, "rating": 5.0, "timestamp": NOW} for user, item in extra]
    return pl.DataFrame(rows, schema_overrides={"rating": pl.Float32})


def catalogue() -> pl.DataFrame:
    """Ten films."""
    return frame(
        "items",
        [
            {"item_id": f"i{i}", "title": f"Film {i}", "attributes": ["Drama" if i % 2 else "War"], "year": 1990 + i}
            for i in range(10)
        ],
    )


class CountingWriter(TextWriter):
    """Repeats the prompt's titles; remembers about whom it was asked, and can't write about some."""

    def __init__(self, asked: list[str], unable: Sequence[str] = ()) -> None:
        self.asked, self.unable = asked, unable

    def write(self, book: PromptBook, users: Sequence[str]) -> list[Written]:
        self.asked.extend(users)
        texts = [", ".join(entry.item.title for entry in book.history(user)) for user in users]
        return [Written(None if user in self.unable else text, 10, 5) for user, text in zip(users, texts, strict=True)]


def made_writer(
    work: Path,
    log: pl.DataFrame,
    asked: list[str],
    parent: Path | None = None,
    settings: BulkSettings | None = None,
    version: str = "g@1",
    now: int = NOW,
    everyone: bool = False,
    unable: Sequence[str] = (),
    buckets: int = 4,
    longest: int = 30,
) -> PartWriter:
    """The writer of a generation in the making, with its work folder."""
    settings = settings or BulkSettings(embed=False)
    work.mkdir(parents=True, exist_ok=True)
    catalogue().write_parquet(work / ITEMS)
    frame("users", []).write_parquet(work / USERS)
    sort_log(iter([log]), catalogue()["item_id"], buckets, work / LOG)
    return PartWriter(
        work=work,
        parent=parent,
        settings=settings,
        versions={tier.name: version for tier in settings.tiers},
        prompts={tier.name: TierPrompts(PromptSettings(), 3.0, longest) for tier in settings.tiers},
        now=now,
        everyone=everyone,
        writer=lambda _: CountingWriter(asked, unable),
        encoder=None,
    )
