"""The body of a part: the users of one bucket and one tier, from their ratings to their rows of the generation.

It is the same whoever runs it: in this process, in a child, or on another machine. What it reads lies in the work
folder; what it writes has a fixed name and appears whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from trackrec.bulk.log import RatingLog
from trackrec.bulk.people import people_of
from trackrec.bulk.settings import BulkSettings
from trackrec.bulk.writers import ProfileWriter, TextWriter
from trackrec.prompts.book import PromptBook
from trackrec.prompts.settings import PromptSettings
from trackrec.prompts.templates import RECCOT_TEMPLATE, prompt_hash
from trackrec.storage.generations import (
    Generation,
    empty_texts,
    open_generation,
    part_name,
    read_texts,
    texts_counts,
    write_texts,
)

if TYPE_CHECKING:
    from trackrec.embed.encode import TextEncoder

ITEMS, USERS, LOG = "items.parquet", "users.parquet", "log"
GEN, FAILED, FRAGMENTS = "gen", "failed", "fragments"


class TierPrompts(NamedTuple):
    """How the prompts of a tier are made: its words, the threshold of a like, the longest history."""

    settings: PromptSettings
    threshold: float
    max_history: int


class PartName(NamedTuple):
    """A part, or a fragment of one: its users ``start`` to ``end`` among those to write about."""

    tier: str
    bucket: int
    start: int = 0
    end: int | None = None

    def __str__(self) -> str:
        rows = "" if self.end is None else f":{self.start}-{self.end}"
        return f"{self.tier}/{self.bucket}{rows}"

    @classmethod
    def parse(cls, text: str) -> PartName:
        """The inverse of ``str``."""
        part, _, rows = text.partition(":")
        tier, _, bucket = part.rpartition("/")
        if not rows:
            return cls(tier, int(bucket))
        start, _, end = rows.partition("-")
        return cls(tier, int(bucket), int(start), int(end))

    @property
    def file(self) -> str:
        """Where its rows lie under the generation, or under ``fragments``."""
        name = part_name(self.tier, self.bucket)
        return name if self.end is None else name.replace(".parquet", f"-{self.start:06d}-{self.end:06d}.parquet")

    @property
    def whole(self) -> PartName:
        """The part that it is, or belongs to."""
        return PartName(self.tier, self.bucket)


@dataclass
class PartWriter:
    """Writes parts of a generation.

    Attributes:
        work: the folder of the generation in the making: ``log``, items, users; parts are written under ``gen``.
        parent: the last generation's folder; None where there is none.
        settings: tiers and policy.
        versions: of the generator of each tier.
        prompts: of each tier.
        now: seconds since 1970, UTC: what ages count from, and when the texts of this generation were made.
        everyone: write all texts anew.
        writer: makes the writer of a tier; called when its first part comes.
        encoder: makes the text encoder; None leaves vectors out.
    """

    work: Path
    parent: Path | None
    settings: BulkSettings
    versions: dict[str, str]
    prompts: Mapping[str, TierPrompts]
    now: int
    everyone: bool
    writer: Callable[[str], TextWriter]
    encoder: Callable[[], TextEncoder] | None
    _open: tuple[str, TextWriter] | None = None

    def __call__(self, name: str) -> dict[str, Any]:
        """Write a part, unless it stands; returns its counts: see `_counts`."""
        part = PartName.parse(name)
        place = self.work / (GEN if part.end is None else FRAGMENTS) / part.file
        if (counts := texts_counts(place)) is not None:
            return counts
        rows, counts = self._make(part)
        write_texts(place, rows, counts)
        return counts

    def people(self, bucket: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The users of a bucket as `people_of` has them, and their rows of the last generation."""
        before = self.before(bucket)
        ratings = self.log.bucket(bucket).select("user_id", "timestamp")
        return people_of(ratings, before, self.settings, self.versions, self.now, self.everyone), before

    def before(self, bucket: int) -> pl.DataFrame:
        """A bucket's rows of the last generation, none where there is none."""
        return empty_texts() if self._parent is None else self._parent.of_bucket(bucket, self.log.buckets)

    def prompts_of(self, part: PartName, users: Sequence[str]) -> dict[str, list[str]]:
        """The segments of G's prompt about some users of a part."""
        book = self._book(part, users) if users else None
        return {user: book.reccot_prompt(user) for user in users} if book else {}

    @cached_property
    def log(self) -> RatingLog:
        """The ratings."""
        return RatingLog(self.work / LOG)

    @cached_property
    def _parent(self) -> Generation | None:
        return None if self.parent is None else open_generation(self.parent)

    @cached_property
    def _items(self) -> pl.DataFrame:
        return pl.read_parquet(self.work / ITEMS)

    @cached_property
    def _users(self) -> pl.DataFrame:
        return pl.read_parquet(self.work / USERS)

    @cached_property
    def _encoder(self) -> TextEncoder | None:
        return None if self.encoder is None else self.encoder()

    def _make(self, part: PartName) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        people, before = self.people(part.bucket)
        people = people.filter(pl.col("tier") == part.tier)
        wanted = people.filter(pl.col("reason") != "kept")["user_id"].to_list()[part.start : part.end]
        wholly = part.end is None
        had = {row["user_id"]: row for row in before.iter_rows(named=True)}
        ready = self._from_fragments(part) if wholly else {}
        failed = self._failed(part) if wholly else set()
        missing = [user for user in wanted if user not in ready and user not in failed]
        made, counts = self._write(part, missing, had, people)
        if failed:
            made.update(self._stand_ins(part, sorted(failed), people))
        rows = {**ready, **made}
        if wholly:
            for user in people.filter(pl.col("reason") == "kept")["user_id"]:
                rows[user] = had[user]
        self._encode(rows)
        kept = sum(self._is_kept(row, had.get(user)) for user, row in rows.items())
        total = self._counts(rows, people if wholly else people.filter(pl.col("user_id").is_in(wanted)), kept, counts)
        return list(rows.values()), total

    def _write(
        self, part: PartName, users: Sequence[str], had: Mapping[str, dict[str, Any]], people: pl.DataFrame
    ) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
        """Rows of users whose text is asked for: the last text where its prompt is still the same, else a new one."""
        counts = dict.fromkeys(("same_prompt", "shared_prompt", "prompt_tokens", "new_tokens"), 0)
        if not users:
            return {}, counts
        version = self.versions[part.tier]
        book = self._book(part, users)
        hashes = {user: prompt_hash(RECCOT_TEMPLATE, book.reccot_prompt(user)) for user in users}
        rows: dict[str, dict[str, Any]] = {}
        first: dict[str, str] = {}
        for user in users:
            last = had.get(user)
            same = last is not None and (last["prompt_hash"], last["generator"]) == (hashes[user], version)
            if same and not self.everyone:
                rows[user] = dict(last or {})
                counts["same_prompt"] += 1
            else:
                first.setdefault(hashes[user], user)
        writers = [user for user in users if first.get(hashes[user]) == user and user not in rows]
        written = dict(zip(writers, self._writer(part.tier).write(book, writers), strict=True)) if writers else {}
        counts["prompt_tokens"] = sum(one.prompt_tokens for one in written.values())
        counts["new_tokens"] = sum(one.new_tokens for one in written.values())
        unable = []
        for user in users:
            if user in rows:
                continue
            text = written[first[hashes[user]]].text
            counts["shared_prompt"] += user not in written
            if text is None:
                unable.append(user)
                continue
            rows[user] = self._row(user, text, hashes[user], part.tier, version, "written")
        rows.update(self._stand_ins(part, unable, people, book))
        of_user = {row["user_id"]: row for row in people.iter_rows(named=True)}
        for user, row in rows.items():
            row.update(n_ratings=of_user[user]["n_ratings"], newest=of_user[user]["newest"])
        return rows, counts

    def _stand_ins(
        self, part: PartName, users: Sequence[str], people: pl.DataFrame, book: PromptBook | None = None
    ) -> dict[str, dict[str, Any]]:
        """Profile texts of users about whom no model can write."""
        if not users:
            return {}
        book = book or self._book(part, users)
        facts = {row["user_id"]: row for row in people.iter_rows(named=True)}
        rows = {}
        for user, written in zip(users, ProfileWriter().write(book, users), strict=True):
            hashed = prompt_hash(RECCOT_TEMPLATE, book.reccot_prompt(user))
            row = self._row(user, str(written.text), hashed, part.tier, self.versions[part.tier], "failed")
            rows[user] = row | {"n_ratings": facts[user]["n_ratings"], "newest": facts[user]["newest"]}
        return rows

    def _row(self, user: str, text: str, hashed: str, tier: str, version: str, status: str) -> dict[str, Any]:
        facts = {"user_id": user, "text": text, "vector": None, "prompt_hash": hashed, "n_ratings": 0, "newest": 0}
        return facts | {"tier": tier, "generator": version, "encoder": "", "made_at": self.now, "status": status}

    def _book(self, part: PartName, users: Sequence[str]) -> PromptBook:
        """Histories of some users: their newest ratings, as many as a history of the tier's run may hold."""
        settings, threshold, longest = self.prompts[part.tier]
        ratings = self.log.bucket(part.bucket).filter(pl.col("user_id").is_in(list(users)))
        newest = ratings.group_by("user_id", maintain_order=True).tail(longest)
        items = self._items[sorted(newest["item"].unique())]
        ids = self._items["item_id"].gather(newest["item"])
        histories = (
            newest.with_columns(ids)
            .group_by("user_id", maintain_order=True)
            .agg(item_ids="item_id", ratings="rating")
            .select(pl.col("user_id").alias("history_id"), "user_id", "item_ids", "ratings")
        )
        known = self._users.filter(pl.col("user_id").is_in(list(users))) if settings.user_attributes else self._nobody
        return PromptBook(histories, items, known, threshold, settings)

    @cached_property
    def _nobody(self) -> pl.DataFrame:
        return pl.DataFrame(schema={"user_id": pl.String, "attributes": pl.List(pl.String)})

    def _writer(self, tier: str) -> TextWriter:
        """The writer of a tier; only one is loaded at a time, since parts come tier by tier."""
        if self._open is None or self._open[0] != tier:
            if self._open is not None:
                self._open[1].close()
            self._open = None
            self._open = (tier, self.writer(tier))
        return self._open[1]

    def _encode(self, rows: dict[str, dict[str, Any]]) -> None:
        """Give a vector to every row that has none of this encoder; equal texts are encoded once."""
        encoder = self._encoder
        if encoder is None:
            return
        stale = [row for row in rows.values() if row["vector"] is None or row["encoder"] != encoder.name]
        texts = sorted({row["text"] for row in stale})
        if not texts:
            return
        vectors = dict(zip(texts, encoder.encode(texts)[0], strict=True))
        for row in stale:
            row.update(vector=vectors[row["text"]], encoder=encoder.name)

    def _from_fragments(self, part: PartName) -> dict[str, dict[str, Any]]:
        """Rows that fragments of the part have written, after workers had died of the whole."""
        folder = (self.work / FRAGMENTS / part.file).parent
        stem = Path(part.file).stem
        frames = [read_texts(path) for path in sorted(folder.glob(f"{stem}-*.parquet"))]
        return {row["user_id"]: row for frame in frames for row in frame.iter_rows(named=True)}

    def _failed(self, part: PartName) -> set[str]:
        """Users who are known to end their worker."""
        path = failed_file(self.work, part)
        return set(json.loads(path.read_text())) if path.exists() else set()

    def _is_kept(self, row: Mapping[str, Any], last: Mapping[str, Any] | None) -> bool:
        """Whether a row has the text of the last generation."""
        same = last is not None and all(row[key] == last[key] for key in ("prompt_hash", "generator"))
        return same and not self.everyone

    def _counts(
        self, rows: Mapping[str, Mapping[str, Any]], people: pl.DataFrame, kept: int, counts: Mapping[str, int]
    ) -> dict[str, Any]:
        """Counts of a part: users, written, kept, by reason; texts that stand in for a model's; prompts that were the
        same as before, or another user's in this part; tokens."""
        reasons = dict(people["reason"].value_counts().iter_rows())
        failed = sum(row["status"] == "failed" for row in rows.values())
        facts = {"users": len(rows), "written": len(rows) - kept, "kept": kept, "reasons": reasons}
        return {**counts, **facts, "failed": failed}


def failed_file(work: Path, part: PartName) -> Path:
    """The list of users of a part about whom no worker lives to write."""
    return work / FAILED / f"{part.tier}-{part.bucket}.json"
