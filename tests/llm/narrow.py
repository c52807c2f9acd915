"""A model that runs out of memory: it raises what torch raises as soon as one call is too large."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
)
# What a step asks of a trainer.
STEP = {"precision_plugin": None, "global_step": 0, "accumulate_grad_batches": 1}


def narrow(
    lm: Any,
    most: int,
    error: Exception = GPU,
    measure: Callable[[torch.Tensor], int] = torch.Tensor.numel,
    backward: bool = False,
) -> list[int]:
    """Let the decoder of ``lm`` fail above ``most`` tokens; returns the sizes that it was asked for, as they come.

    Args:
        lm: a `LanguageModel`.
        most: what fits.
        error: what is raised.
        measure: the size of (B, T) input ids.
        backward: the forward pass fits, and its gradient doesn't.
    """
    asked: list[int] = []

    def before(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        asked.append(measure(kwargs["input_ids"]))
        if asked[-1] > most and not backward:
            raise error

    def after(module: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        def fail(gradient: torch.Tensor) -> None:
            raise error

        if backward and measure(kwargs["input_ids"]) > most and out.last_hidden_state.requires_grad:
            out.last_hidden_state.register_hook(fail)

    decoder = lm.base.get_decoder()
    decoder.register_forward_pre_hook(before, with_kwargs=True)
    decoder.register_forward_hook(after, with_kwargs=True)
    return asked
