"""``trackrec refresh``: texts and vectors for every user, on this machine or on a cluster."""

from __future__ import annotations

import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentParser

from trackrec.bulk.costs import cost_lines
from trackrec.bulk.part import PartWriter
from trackrec.bulk.ratings import todays_ratings
from trackrec.bulk.refresh import (
    Making,
    begin,
    check_parts,
    last_generation,
    nothing_new,
    plan_lines,
    plan_parts,
    publish,
    write_parts,
)
from trackrec.bulk.tiers import TierRun, open_tiers, tier_prompts, tier_versions, tier_writer
from trackrec.commands.call import Call
from trackrec.embed.encode import TextEncoder, encoder_name
from trackrec.engine.engine import WorkerSpec
from trackrec.pipeline.lock import locked
from trackrec.runtime.errors import SettingError
from trackrec.runtime.packages import need
from trackrec.storage.atomic import write_atomic

WORKER = "trackrec.cli.part_worker:refresh_worker"


def add_arguments(parser: ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("--output", type=Path, required=True, help="Folder of generations; CURRENT names the last.")
    parser.add_argument("--ratings", type=Path | None, default=None, help="Today's log; null is the run's source.")
    parser.add_argument("--only", type=Literal["changed", "all"], default="changed", help="all: write every text anew.")
    parser.add_argument("--dry_run", "--dry-run", action="store_true", help="Print who, how long and at what price.")
    parser.add_argument("--now", type=str | None, default=None, help="Date or time in UTC instead of the clock's.")


def run(call: Call) -> None:
    """Plan, write, check, publish."""
    own, output = call.own, Path(call.own["output"]).expanduser()
    now = parse_now(own["now"])
    if output.exists() and not output.is_dir():
        raise SettingError(f"--output {output} is a file. Name a folder; it is made where it doesn't exist.")
    made = call.objects()
    tiers = open_tiers(call.config, call.objects, made.bulk, call.parse, call.say)
    if made.bulk.embed:
        need(f"embed.model {made.embed.model}", "text", "sentence_transformers")
    if own["dry_run"]:
        import tempfile

        parent = next(path for path in output.absolute().parents if path.is_dir())
        with tempfile.TemporaryDirectory(prefix=".trackrec-plan-", dir=parent) as folder:
            _, writer = _begin(call, made, tiers, output, Path(folder), now)
            _show_plan(call, made, tiers, writer)
        return
    with locked(output, "--output"):
        making, writer = _begin(call, made, tiers, output, output, now)
        planned = plan_parts(writer)
        call.say(f"generation {making.plan['name']} of {planned.users:,} users; {planned.to_write():,} need a text")
        for line in plan_lines(planned):
            call.say(line)
        if nothing_new(writer, planned):
            making.drop()
            call.say(f"nothing to write: {making.plan['parent']} is as it would be")
            return
        if writer.log.unknown_items:
            call.say(f"{writer.log.unknown_items:,} ratings are of items that the run doesn't know: left out")
        spec = WorkerSpec(WORKER, {"work": str(making.work.absolute()), "cwd": str(Path.cwd())})
        seconds = write_parts(writer, planned, made.engine, spec, made.bulk.max_failed, call.say)
        check_parts(writer, planned)
        info = {
            "run": str(call.run_dir),
            "generators": making.plan["versions"],
            "encoder": making.plan["encoder"],
            "threads": making.plan["threads"],
        }
        generation = publish(making, planned, seconds, info)
    totals = generation.info["written"]
    call.say(
        f"{generation.path}: {generation.info['users']:,} users, {totals['written']:,} texts written "
        f"({totals['same_prompt']:,} prompts were the same as before), {totals['kept']:,} kept, "
        f"{totals['failed']:,} by the profile writer because the model failed"
    )


def _begin(
    call: Call, made: Any, tiers: dict[str, TierRun], output: Path, place: Path, now: int | None
) -> tuple[Making, PartWriter]:
    """The generation in the making, and its writer."""
    bulk, last = made.bulk, last_generation(output)
    first = tiers[bulk.tiers[0].name]
    versions = tier_versions(tiers, bulk)
    facts = {
        "parent": last.name if last else None,
        "versions": versions,
        "prompts": {name: asdict(run.experiment.prompts) for name, run in tiers.items()},
        "bulk": asdict(bulk),
        "encoder": encoder_name(made.embed) if bulk.embed else "",
        "everyone": call.own["only"] == "all",
        "threads": bulk.threads or max(1, (os.cpu_count() or 1) // made.engine.workers),
        "output": str(output.absolute()),
        "run_dir": str(call.run_dir.absolute()),
    }
    today = todays_ratings(first.experiment, call.objects, call.own["ratings"])
    making = begin(place, facts, today, bulk.part_users, now)
    for name, run in tiers.items():
        write_atomic(making.work / f"{name}.yaml", yaml.safe_dump(run.config, sort_keys=False))
    return making, part_writer(making.work, making.plan, tiers, made.embed, bulk)


def part_writer(work: Path, plan: dict[str, Any], tiers: dict[str, TierRun], embed: Any, bulk: Any) -> PartWriter:
    """The writer of a generation in the making; the models of a tier are loaded when its first part comes."""
    return PartWriter(
        work=work,
        parent=Path(plan["output"]) / plan["parent"] if plan["parent"] else None,
        settings=bulk,
        versions=plan["versions"],
        prompts=tier_prompts(tiers),
        now=plan["now"],
        everyone=plan["everyone"],
        writer=tier_writer(tiers, bulk),
        encoder=(lambda: TextEncoder(embed)) if bulk.embed else None,
    )


def _show_plan(call: Call, made: Any, tiers: dict[str, TierRun], writer: PartWriter) -> None:
    planned = plan_parts(writer)
    for line in [*plan_lines(planned), "", *cost_lines(writer, planned, tiers, made.engine.workers, made.bulk)]:
        call.say(line)


def parse_now(text: str | None) -> int | None:
    """Seconds since 1970 of ``2026-12-01``, ``2026-12-01T03:15:00`` or a number of seconds; UTC where no zone is given.

    Raises:
        SettingError: it is none of these.
    """
    if text is None:
        return None
    if text.isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise SettingError(
            f"--now must be a date or time such as 2026-12-01 or 2026-12-01T03:15:00, or seconds since 1970; "
            f"got {text!r}."
        ) from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
