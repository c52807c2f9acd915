"""AdamW and its learning-rate schedule for the three language-model trainings."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from trackrec.runtime.errors import SettingError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW and its learning-rate schedule over the optimizer steps of the stage.

    Attributes:
        name: ``adamw``, or bitsandbytes' ``adamw8bit`` / ``paged_adamw8bit`` (GPU).
        weight_decay: decoupled weight decay.
        beta1: decay of the running mean of the gradient.
        beta2: decay of the running mean of the squared gradient.
        warmup: share of the optimizer steps in which the learning rate rises from 0.
        schedule: how the learning rate falls to 0 afterwards, or ``constant``.
    """

    name: Literal["adamw", "adamw8bit", "paged_adamw8bit"] = "adamw"
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    warmup: float = 0.03
    schedule: Literal["cosine", "linear", "constant"] = "cosine"

    def __post_init__(self) -> None:
        for name in ("warmup", "beta1", "beta2"):
            value = getattr(self, name)
            if not 0 <= value <= 1 or (value == 1 and name != "warmup"):
                allowed = "a share of the steps, in [0, 1]" if name == "warmup" else "in [0, 1)"
                raise SettingError(f"optimizer.{name} must be {allowed}, got {value}.")

    def build(self, parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        """The optimizer over exactly these parameters; 8-bit optimizers fall back to AdamW without a GPU."""
        parameters = list(parameters)
        betas = (self.beta1, self.beta2)
        on_gpu = all(parameter.is_cuda for parameter in parameters)
        if self.name != "adamw" and not on_gpu:
            log.warning("optimizer %s needs a GPU: using adamw instead", self.name)
        if self.name == "adamw" or not on_gpu:
            return torch.optim.AdamW(parameters, lr=lr, betas=betas, weight_decay=self.weight_decay)
        import bitsandbytes as bnb

        kind = bnb.optim.AdamW8bit if self.name == "adamw8bit" else bnb.optim.PagedAdamW8bit
        return kind(parameters, lr=lr, betas=betas, weight_decay=self.weight_decay)

    def factor(self, step: int, total_steps: int) -> float:
        """The learning rate at an optimizer step, as a share of the peak rate."""
        warmup = math.ceil(self.warmup * total_steps)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        return {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[self.schedule]
