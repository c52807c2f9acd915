"""What a refresh will read and write, and how long that takes at the rates that were measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import polars as pl

from trackrec.bulk.part import PartName, PartWriter
from trackrec.bulk.refresh import Planned
from trackrec.bulk.settings import BulkSettings
from trackrec.bulk.tiers import TierRun
from trackrec.bulk.writers import PROFILE
from trackrec.llm.chat import ChatEncoder
from trackrec.llm.loading import tokenizer_or_explain
from trackrec.recipe.models import measured_rate
from trackrec.recipe.names import TEXTS
from trackrec.storage.generations import Generation, open_generation

_SAMPLE = 256


class TierCost(NamedTuple):
    """Tokens that a tier reads and writes, and the seconds of all its workers together, None where no rate is known."""

    tier: str
    users: int
    prompt_tokens: int
    new_tokens: int
    seconds: float | None
    source: str


def tier_costs(writer: PartWriter, planned: Planned, runs: Mapping[str, TierRun]) -> list[TierCost]:
    """The cost of each tier, from the prompts of some of its users and the length of the run's texts.

    The rate is that of the last generation's parts of the tier, else that of the run's own texts.
    """
    last = open_generation(writer.parent) if writer.parent else None
    costs = []
    for tier in writer.settings.tiers:
        users = planned.to_write(tier.name)
        if tier.writer == PROFILE:
            costs.append(TierCost(tier.name, users, 0, 0, 0.0, "no language model"))
            continue
        run = runs[tier.name]
        each, new = mean_prompt(writer, planned, tier.name, run), mean_text(run)
        prompt, written = round(users * each), round(users * new)
        seconds, source = _seconds(last, tier.name, users, prompt + written, run)
        costs.append(TierCost(tier.name, users, prompt, written, seconds, source))
    return costs


def cost_lines(
    writer: PartWriter, planned: Planned, runs: Mapping[str, TierRun], workers: int, bulk: BulkSettings
) -> list[str]:
    """The costs as a dry run prints them."""
    lines = [f"{'tier':12}{'texts':>12}{'prompt tokens':>16}{'new tokens':>14}{'hours':>10}  at"]
    hours = 0.0
    for cost in tier_costs(writer, planned, runs):
        spent = None if cost.seconds is None else cost.seconds / 3600
        hours += spent or 0.0
        shown = "unknown" if spent is None else f"{spent:,.2f}"
        lines.append(
            f"{cost.tier:12}{cost.users:>12,}{cost.prompt_tokens:>16,}{cost.new_tokens:>14,}{shown:>10}  {cost.source}"
        )
    lines.append(f"{hours:,.2f} hours of one worker, {hours / workers:,.2f} with {workers}")
    if bulk.gpu_hour_price is not None:
        lines.append(f"price {hours * bulk.gpu_hour_price:,.2f} at {bulk.gpu_hour_price:g} an hour and worker")
    return lines


def mean_prompt(writer: PartWriter, planned: Planned, tier: str, run: TierRun) -> float:
    """Tokens of G's prompt, the mean of some of the tier's users to write about."""
    settings = run.experiment.backbone
    chat = ChatEncoder(
        tokenizer_or_explain(settings, "backbone"),
        system=settings.system_prompt,
        key="backbone",
        template_kwargs=settings.chat_template_kwargs,
    )
    lengths: list[int] = []
    for name, count in planned.parts.items():
        part = PartName.parse(name)
        if part.tier != tier or not count or len(lengths) >= _SAMPLE:
            continue
        people, _ = writer.people(part.bucket)
        wanted = people.filter((pl.col("tier") == tier) & (pl.col("reason") != "kept"))["user_id"].to_list()
        some = wanted[: _SAMPLE - len(lengths)]
        lengths += [len(chat.encode_prompt(segments)) for segments in writer.prompts_of(part, some).values()]
    return sum(lengths) / max(1, len(lengths))


def mean_text(run: TierRun) -> float:
    """Tokens of a text of the run's last G; the most that one may have where it has written none."""
    experiment = run.experiment
    if experiment.pipeline.done(TEXTS) is None:
        return float(experiment.sampler.max_new_tokens)
    lengths = experiment.table(TEXTS, "reccots")["token_ids"].list.len()
    mean = lengths.filter(lengths > 0).mean()
    return float(experiment.sampler.max_new_tokens) if mean is None else float(mean)  # type: ignore[arg-type]


def _seconds(last: Generation | None, tier: str, users: int, tokens: int, run: TierRun) -> tuple[float | None, str]:
    """Seconds of one worker, and where the rate comes from."""
    if last is not None:
        seconds = float(last.info["seconds"].get(tier, 0.0))
        written = int(last.info["written_by_tier"].get(tier, 0))
        if seconds and written:
            return users * seconds / written, f"{written / seconds:,.1f} texts/s of {last.name}"
    rate = measured_rate(run.experiment, "generate")
    if rate:
        return tokens / rate, f"{rate:,.0f} tokens/s of the run"
    return None, "no rate measured yet"
