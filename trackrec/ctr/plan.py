"""What the CTR stage trains, and the checks of it that need no data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import nn

from trackrec.ctr.arms.arms import TextSettings, scored_arms
from trackrec.ctr.arms.assemble import check_arms
from trackrec.ctr.arms.classic import check_classics
from trackrec.ctr.training.module import check_lazy_rows
from trackrec.ctr.training.train import check_trainer

DEFAULT_ARMS = ("none", "reccot", "shuffled", "random")


class CTRPlan(NamedTuple):
    """What to train: factories and arguments of `fit_arm`, which arms and seeds, and what stands beside the nets."""

    net: Callable[..., nn.Module]
    connector: Callable[..., nn.Module] | None
    model: dict[str, Any]
    data: dict[str, Any]
    trainer: Callable[[], dict[str, Any]]
    arms: Sequence[str]
    seeds: Sequence[int]
    patience: int
    text: TextSettings = TextSettings()
    classics: Sequence[str] = ()


def check_plan(plan: CTRPlan) -> None:
    """What can be known of a plan before the hours that come before it.

    Raises:
        ValueError: an unknown arm or classic model, no or repeated seeds, arms or shares, or log-odds are to be used
            and no arm reads them.
        ImportError: a classic model isn't installed.
    """
    check_arms(plan.arms)
    check_classics(plan.classics)
    shares = [f"{share:g}" for share in plan.text.coverage or ()]
    for key, given in (("arms", plan.arms), ("seeds", plan.seeds), ("text.coverage", shares)):
        if len(set(given)) < len(given) or (key != "text.coverage" and not given):
            raise ValueError(f"ctr.{key} must name one or more, each once, got {list(given)}.")
    if wrong := [seed for seed in plan.seeds if not 0 <= seed < 2**31]:
        raise ValueError(f"ctr.seeds must be from 0 to 2147483647, got {wrong[0]}.")
    check_trainer(plan.trainer())
    if (lr := plan.model.get("lr", 1.0)) <= 0:
        raise ValueError(f"ctr.model.lr must be above 0, got {lr}.")
    check_lazy_rows(plan.model.get("lazy_rows"), plan.trainer().get("gradient_clip_val"))
    if plan.text.use == "log_odds" and not scored_arms(plan.arms):
        raise ValueError(
            f"ctr.text.use: log_odds needs an arm that reads V's answers: reccot, shuffled, random or plain, got "
            f"{', '.join(plan.arms)}."
        )
