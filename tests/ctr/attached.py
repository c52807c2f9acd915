"""Features with an arm, under any name: what `trackrec.ctr.arms.assemble.prepare` does for the arms of a run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trackrec.ctr.arms.texts import shuffled_texts, text_arm
from trackrec.ctr.features.features import CTRData
from trackrec.ctr.settings import CTRSettings
from trackrec.ctr.training.module import CTRModule


def with_texts(data: CTRData, arm: str, history_ids: list[str], vectors: Any, gaps: bool = False) -> CTRData:
    """``data`` with the texts of an arm."""
    return replace(data, arms={**data.arms, arm: text_arm(data, arm, history_ids, vectors, gaps)})


def with_shuffled(data: CTRData, seed: int = 0) -> CTRData:
    """``data`` with the arm ``shuffled``."""
    return replace(data, arms={**data.arms, "shuffled": shuffled_texts(data, data.arms["reccot"], seed)})


def module_of(net: Any, **settings: Any) -> CTRModule:
    """A module that holds a net without a Trainer."""
    module = CTRModule(lambda: net, **settings)
    module.configure_model()
    return module


def net_plan(
    net: Any, connector: Any = None, model: Any = None, data: Any = None, patience: int = 3, **trainer: Any
) -> CTRSettings:
    """What `fit_arm` trains, on a CPU; ``trainer`` are arguments of Lightning's."""
    flags = {"accelerator": "cpu", **trainer}
    return CTRSettings(net, connector, model or {}, data or {}, lambda: dict(flags), ["none"], [0], patience)
