"""Describes the batches of a stage for the memory plan."""

from __future__ import annotations

from typing import Literal, NamedTuple

from trackrec.llm.memory_plan.footprint import Work

TARGET = 40
"""Tokens of a target and its answer, taken from the prompts of the shipped configs."""


class StageWork(NamedTuple):
    """The largest batches of one stage.

    Attributes:
        stage: kind of the stage, as in a run.
        role: whose model the stage runs.
        section: the config section with the optimizer of that model's adapter.
        works: candidate batches; the largest counts.
        keys: the config keys that make the batches smaller.
    """

    stage: str
    role: Literal["generator", "validator"]
    section: str
    works: list[Work]
    keys: str
