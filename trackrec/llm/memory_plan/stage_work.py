"""What a room says of the batches of its stage, for the memory plan."""

from __future__ import annotations

from typing import Literal, NamedTuple

from trackrec.llm.memory_plan.footprint import Work

TARGET = 40
"""Tokens of a target and its answer, from the prompts of the shipped configs."""


class StageWork(NamedTuple):
    """The largest batches of one stage.

    Attributes:
        stage: its kind, as a run calls it.
        role: whose model it runs.
        section: the config section that holds the optimizer of the role's adapter.
        works: batches; the largest counts.
        keys: the config keys that make them smaller.
    """

    stage: str
    role: Literal["generator", "validator"]
    section: str
    works: list[Work]
    keys: str
