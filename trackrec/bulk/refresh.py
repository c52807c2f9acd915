"""``trackrec refresh``: plan who needs a text, let an engine write the parts, check them, publish the generation.

While it is made, a generation lies in ``OUTPUT/.partial/<name>``: the sorted ratings, the catalogue, ``plan.json`` and
the parts so far. A refresh that was cut off goes on there if it would write the same; otherwise it begins anew.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from tqdm import tqdm

from trackrec.bulk.log import bucket_count, sort_log
from trackrec.bulk.part import FRAGMENTS, GEN, ITEMS, LOG, USERS, PartName, PartWriter, failed_file
from trackrec.bulk.people import REASONS
from trackrec.bulk.ratings import TodaysRatings
from trackrec.engine.engine import Engine, EngineError, PartLost, WorkerSpec
from trackrec.storage.atomic import stable_hash, write_atomic
from trackrec.storage.generations import (
    INFO,
    PARTIAL,
    PREFIX,
    Generation,
    GenerationError,
    bucket_of,
    current_name,
    finish_generation,
    open_generation,
    read_texts,
    set_current,
    texts_counts,
)

PLAN = "plan.json"
_FEW_FAILED = 3


@dataclass
class Planned:
    """Users by tier and reason, and by part.

    Attributes:
        reasons: tier -> reason -> users.
        parts: the parts in the order in which they are written: name -> users of it to write about.
        buckets: users of each bucket.
    """

    reasons: dict[str, Counter[str]] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)
    buckets: list[int] = field(default_factory=list)

    @property
    def users(self) -> int:
        """All of them."""
        return sum(self.buckets)

    def to_write(self, tier: str | None = None) -> int:
        """Users whose text is written, unless its prompt turns out to be the same as before."""
        tiers = self.reasons if tier is None else (tier,)
        return sum(count for name in tiers for reason, count in self.reasons[name].items() if reason != "kept")


def plan_parts(writer: PartWriter) -> Planned:
    """Count the users, bucket by bucket."""
    tiers = [tier.name for tier in writer.settings.tiers]
    planned = Planned({name: Counter() for name in tiers})
    parts: dict[str, dict[str, int]] = {name: {} for name in tiers}
    for bucket in range(writer.log.buckets):
        people, _ = writer.people(bucket)
        planned.buckets.append(len(people))
        for tier, reason, count in people.group_by("tier", "reason").len().iter_rows():
            planned.reasons[tier][reason] += count
            name = str(PartName(tier, bucket))
            parts[tier][name] = parts[tier].get(name, 0) + (count if reason != "kept" else 0)
    planned.parts = {name: count for tier in tiers for name, count in parts[tier].items()}
    return planned


def plan_lines(planned: Planned) -> list[str]:
    """The table of a dry run: users by tier and reason."""
    found = [reason for reason in REASONS if any(planned.reasons[tier][reason] for tier in planned.reasons)]
    lines = ["".join([f"{'users':12}", *(f"{reason:>12}" for reason in found), f"{'together':>12}"])]
    for tier, counts in planned.reasons.items():
        cells = [counts[reason] for reason in found]
        lines.append("".join([f"{tier:12}", *(f"{cell:>12,}" for cell in cells), f"{sum(cells):>12,}"]))
    return lines


@dataclass(frozen=True)
class Making:
    """A generation in the making.

    Attributes:
        output: the folder of generations.
        work: its own folder there.
        plan: the content of ``plan.json``: key, name, now, parent, threads, only, and what `PartWriter` needs.
    """

    output: Path
    work: Path
    plan: dict[str, Any]

    def drop(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.work, ignore_errors=True)


def nothing_new(writer: PartWriter, planned: Planned) -> bool:
    """Whether the generation would be the last one once more: no text to write, no user gone, no other encoder."""
    last = None if writer.parent is None else open_generation(writer.parent)
    if last is None or planned.to_write():
        return False
    encoder = json.loads((writer.work / PLAN).read_text())["encoder"]
    return bool(last.info["users"] == planned.users and last.info["encoder"] == encoder)


def begin(output: Path, facts: dict[str, Any], today: TodaysRatings, part_users: int, now: int | None) -> Making:
    """The generation in the making that has these facts: the one that was cut off, or a new one.

    Args:
        output: the folder of generations.
        facts: what decides the texts, as plain types; a parent among them.
        today: the ratings.
        part_users: about so many users a part.
        now: seconds since 1970, UTC; None is the clock, or the time at which the one that was cut off began.
    """
    decides = {key: value for key, value in facts.items() if key != "threads"}
    key = stable_hash(json.dumps(decides, sort_keys=True, default=str), today.digest, now)
    for path in sorted((output / PARTIAL).glob(f"*/{PLAN}")):
        plan = json.loads(path.read_text())
        if plan["key"] == key:
            return Making(output, path.parent, plan)
    shutil.rmtree(output / PARTIAL, ignore_errors=True)  # of a refresh that would have written something else
    started = int(time.time()) if now is None else now
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    name = f"{PREFIX}{stamp}-{key[:8]}"
    work = output / PARTIAL / name
    work.mkdir(parents=True)
    today.items.write_parquet(work / ITEMS)
    today.users.write_parquet(work / USERS)
    sort_log(today.batches, today.items["item_id"], bucket_count(today.about, part_users), work / LOG)
    plan = {**facts, "key": key, "name": name, "now": started}
    write_atomic(work / PLAN, json.dumps(plan, indent=1))
    return Making(output, work, plan)


def write_parts(
    writer: PartWriter,
    planned: Planned,
    engine: Engine,
    spec: WorkerSpec,
    max_failed: float,
    say: Callable[[str], None],
) -> dict[str, float]:
    """Let an engine write all parts that don't stand; returns the workers' seconds for each tier.

    A part that ends its workers is halved until the users are found who do it; they are filed under ``failed``, and the
    part is written with profile texts about them.

    Raises:
        EngineError: workers can't be made, too many users fail, or a part fails for another reason.
    """
    parts = deque(name for name in planned.parts if not (writer.work / GEN / PartName.parse(name).file).exists())
    hunt = _Hunt(writer, parts, max(_FEW_FAILED, round(max_failed * planned.to_write())), say)
    seconds = dict.fromkeys(planned.reasons, 0.0)
    with _progress(planned, writer, parts) as bar:
        for report in engine.run(parts, spec, lambda name: hunt.tries(name, engine.tries)):
            if isinstance(report, PartLost):
                hunt.lost(report)
                continue
            part = PartName.parse(report.part)
            seconds[part.tier] += report.seconds
            if part.end is None:
                bar.update(report.counts["users"])
            else:
                hunt.found(part)
    shutil.rmtree(writer.work / FRAGMENTS, ignore_errors=True)
    return seconds


@contextmanager
def _progress(planned: Planned, writer: PartWriter, parts: deque[str]) -> Iterator[tqdm[Any]]:
    """One line: users done, users a second, time left."""
    bar = tqdm(total=planned.users, desc=f"{len(planned.parts)} parts", unit="user", disable=None)
    for name in planned.parts.keys() - set(parts):
        bar.update(len(read_texts(writer.work / GEN / PartName.parse(name).file, ["user_id"])))
    try:
        yield bar
    finally:
        bar.close()


class _Hunt:
    """Halves parts that end their workers until the users are found who do it."""

    def __init__(self, writer: PartWriter, parts: deque[str], most: int, say: Callable[[str], None]) -> None:
        self.writer, self.parts, self.most, self.say = writer, parts, most, say
        self.open: Counter[str] = Counter()  # fragments of each part that are not settled
        self.users: dict[str, list[str]] = {}
        self.failed: dict[str, list[str]] = {}

    def tries(self, name: str, tries: int) -> int:
        """A fragment is halved at once; a single user gets all tries."""
        part = PartName.parse(name)
        return tries if part.end is None or part.end - part.start == 1 else 1

    def lost(self, report: PartLost) -> None:
        """Halve what was lost, or file its only user."""
        part = PartName.parse(report.part)
        name = str(part.whole)
        if part.end is None:
            if name in self.users:
                raise EngineError(f"part {name} fails even without the users that ended its workers: {report.reason}")
            people, _ = self.writer.people(part.bucket)
            wanted = people.filter((pl.col("tier") == part.tier) & (pl.col("reason") != "kept"))
            self.users[name] = wanted["user_id"].to_list()
            if not self.users[name]:
                raise EngineError(f"part {name} has no text to write, and fails: {report.reason}")
            self.say(f"part {name} failed ({_last_line(report.reason)}); it is halved to find the user who does it")
            self._halve(part._replace(end=len(self.users[name])))
            return
        if part.end - part.start > 1:
            self._halve(part)
        else:
            self._file(name, self.users[name][part.start], report.reason)
        self._settle(name)

    def found(self, part: PartName) -> None:
        """A fragment was written."""
        self._settle(str(part.whole))

    def _halve(self, part: PartName) -> None:
        assert part.end is not None
        middle = (part.start + part.end) // 2
        halves = [(part.start, middle), (middle, part.end)] if middle > part.start else [(part.start, part.end)]
        for start, end in halves:
            self.parts.append(str(part._replace(start=start, end=end)))
            self.open[str(part.whole)] += 1

    def _file(self, name: str, user: str, why: str) -> None:
        failed = self.failed.setdefault(name, [])
        failed.append(user)
        if sum(map(len, self.failed.values())) > self.most:
            raise EngineError(
                f"more than {self.most} users can't be written about (bulk.max_failed); the last is {user!r}: "
                f"{_last_line(why)}. What is written stays; the same command goes on."
            )
        self.say(f"user {user!r} gets a profile text: {_last_line(why)}")

    def _settle(self, name: str) -> None:
        """One fragment less; the part is written again when none is left."""
        self.open[name] -= 1
        if not self.open[name]:
            part = PartName.parse(name)
            write_atomic(failed_file(self.writer.work, part), json.dumps(sorted(self.failed.get(name, []))))
            self.parts.append(name)


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "no reason given"


def check_parts(writer: PartWriter, planned: Planned) -> None:
    """Check that every planned user has one row: an engine's word isn't enough.

    Raises:
        EngineError: a part is missing, or the users of a bucket are not those that were planned.
    """
    by_bucket: dict[int, list[Path]] = {}
    for name in planned.parts:
        part = PartName.parse(name)
        path = writer.work / GEN / part.file
        if not path.exists():
            raise EngineError(f"part {name} is missing, though every part was reported. Run the same command again.")
        by_bucket.setdefault(part.bucket, []).append(path)
    for bucket, paths in by_bucket.items():
        users = pl.concat([read_texts(path, ["user_id"]) for path in paths])["user_id"]
        strangers = [user for user in users if bucket_of(user, len(planned.buckets)) != bucket]
        if strangers or not len(users) == users.n_unique() == planned.buckets[bucket]:
            raise EngineError(
                f"bucket {bucket} has {len(users)} rows of {users.n_unique()} users, {len(strangers)} of them of other "
                f"buckets; planned were {planned.buckets[bucket]}. Delete {writer.work} and refresh again."
            )


def publish(making: Making, planned: Planned, seconds: dict[str, float], info: dict[str, Any]) -> Generation:
    """Make the parts a generation and the current one; what was half done is removed."""
    plan = making.plan
    final = making.output / plan["name"]
    if not (final / INFO).is_file():
        counts = {tier: dict(reasons) for tier, reasons in planned.reasons.items()}
        totals, by_tier = written_counts(making.work / GEN)
        facts = {"name": plan["name"], "made_at": plan["now"], "parent": plan["parent"], "key": plan["key"]}
        finish_generation(
            making.work / GEN,
            {
                **facts,
                **info,
                "buckets": len(planned.buckets),
                "tiers": counts,
                "written": totals,
                "written_by_tier": by_tier,
                "seconds": seconds,
            },
        )
        (making.work / GEN).rename(final)
    set_current(making.output, plan["name"])
    making.drop()
    return open_generation(final)


def written_counts(folder: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Counts of all parts together, as `PartWriter` returns them for one; and the texts written by tier."""
    totals: Counter[str] = Counter(dict.fromkeys(("written", "kept", "same_prompt", "shared_prompt", "failed"), 0))
    by_tier: Counter[str] = Counter()
    for path in sorted(folder.glob("*/*/part-*.parquet")):
        counts = texts_counts(path) or {}
        by_tier[path.relative_to(folder).parts[0]] += counts.get("written", 0)
        totals.update({key: value for key, value in counts.items() if isinstance(value, int)})
    return dict(totals), dict(by_tier)


def last_generation(output: Path) -> Generation | None:
    """The current generation of a folder; None where there is none yet.

    Raises:
        GenerationError: ``CURRENT`` names one that isn't there.
    """
    name = current_name(output)
    if name is None:
        if any(output.glob(f"{PREFIX}*/{INFO}")):
            raise GenerationError(
                f"--output {output} holds generations but no CURRENT, the file that names the last one. Write its name "
                "there, or choose another --output."
            )
        return None
    return open_generation(output)
