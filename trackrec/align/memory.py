"""The batches of the stage ``align``, for the memory plan."""

from __future__ import annotations

from trackrec.llm.memory_plan.footprint import Work
from trackrec.llm.memory_plan.stage_work import StageWork


def align_work(prompt: int, draws: int, new: int, batch_size: int) -> StageWork:
    """Packed rows of a prompt and all its draws.

    Args:
        prompt: tokens of the generator's prompt.
        draws: ``sampler.init_args.n``.
        new: tokens of a draw at most.
        batch_size: ``align.data.batch_size``.
    """
    rows = Work(batch_size, prompt + draws * new, True, True)
    return StageWork("align", "generator", "align", [rows], "align.data.batch_size, sampler.init_args.n")
