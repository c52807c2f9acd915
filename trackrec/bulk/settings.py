"""The ``bulk`` section of a configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from trackrec.runtime.errors import SettingError

Writer = Literal["generator", "profile"]


@dataclass(frozen=True)
class RefreshPolicy:
    """When a user's text is written anew. It always is where the user has none, or another generator wrote it.

    Attributes:
        min_new: at so many ratings more than the text knows of; null: however many.
        min_share: at so many more as a share of those it knows of; null likewise. Either of the two is enough.
        max_age_days: at this age; null: at any age a text may stay.
    """

    min_new: int | None = 3
    min_share: float | None = 0.1
    max_age_days: float | None = None

    def __post_init__(self) -> None:
        for key in ("min_new", "min_share", "max_age_days"):
            value = getattr(self, key)
            if value is not None and value <= 0:
                raise SettingError(f"bulk.policy.{key} must be above 0 or null, got {value}.")


@dataclass(frozen=True)
class Tier:
    """Some of the users, by how long ago they rated something, and who writes their texts.

    Attributes:
        name: of the tier; also a folder of the generation.
        active_days: users who rated something in so many days before now; null: all whom no tier above took.
        writer: ``generator`` is the run's G; ``profile`` writes counts in sentences, without a language model.
        config: the configuration file of another run, whose G writes instead, such as one of a smaller backbone; its
            prompts apply too.
    """

    name: str
    active_days: float | None = None
    writer: Writer = "generator"
    config: Path | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,30}", self.name):
            raise SettingError(
                f"bulk.tiers: a name is made of small letters, digits, - and _, and begins with a letter; "
                f"got {self.name!r}."
            )
        if self.active_days is not None and self.active_days <= 0:
            raise SettingError(f"bulk.tiers: active_days must be above 0 or null, got {self.active_days}.")
        if self.writer not in ("generator", "profile"):
            raise SettingError(f"bulk.tiers: writer must be generator or profile, got {self.writer!r}.")
        if self.config is not None and self.writer == "profile":
            raise SettingError(f"bulk.tiers: {self.name} has a config, which the writer profile doesn't read.")


@dataclass(frozen=True)
class BulkSettings:
    """How `trackrec refresh` writes the texts of all users.

    Attributes:
        part_users: about so many users share a part, the unit of work and of what is lost by a crash.
        merge_adapter: add G's adapter into a copy of its weights, which generates faster; not for quantized weights.
        embed: encode the texts with the encoder of ``embed``; false leaves the vectors out.
        threads: that a worker computes with; null shares the cores of this machine among the workers. The last bits of
            a vector depend on it, so a generation keeps the number with which it began.
        max_failed: users that no model can write about get a profile text; more than this share of those written ends
            the refresh, since then something else is wrong.
        gpu_hour_price: for the dry run's price, in whatever currency; null prints none.
        policy: when a text is written anew.
        tiers: who writes for whom, the most active users first.
    """

    part_users: int = 4096
    merge_adapter: bool = False
    embed: bool = True
    threads: int | None = None
    max_failed: float = 0.01
    gpu_hour_price: float | None = None
    policy: RefreshPolicy = field(default_factory=RefreshPolicy)
    tiers: list[Tier] = field(default_factory=lambda: [Tier("full")])

    def __post_init__(self) -> None:
        if self.part_users < 1:
            raise SettingError(f"bulk.part_users must be at least 1, got {self.part_users}.")
        if self.threads is not None and self.threads < 1:
            raise SettingError(f"bulk.threads must be at least 1 or null, got {self.threads}.")
        if not 0 <= self.max_failed <= 1:
            raise SettingError(f"bulk.max_failed must be a share in 0..1, got {self.max_failed}.")
        if not self.tiers:
            raise SettingError("bulk.tiers must name at least one tier, such as [{name: full}].")
        names = [tier.name for tier in self.tiers]
        if len(set(names)) < len(names):
            raise SettingError(f"bulk.tiers: a name repeats in {', '.join(names)}.")
        limits = [tier.active_days for tier in self.tiers]
        if limits[-1] is not None or any(limit is None for limit in limits[:-1]):
            raise SettingError(
                "bulk.tiers: every tier but the last has active_days, and the last has none, so that it takes all "
                f"other users; got {', '.join(f'{tier.name}: {tier.active_days}' for tier in self.tiers)}."
            )
        known = [limit for limit in limits if limit is not None]
        if known != sorted(known):
            raise SettingError(f"bulk.tiers: active_days must grow from tier to tier, got {known}.")
