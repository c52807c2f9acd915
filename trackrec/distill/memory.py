"""The batches of the stage ``distill``, for the memory plan."""

from __future__ import annotations

from trackrec.llm.memory_plan.footprint import Work
from trackrec.llm.memory_plan.stage_work import StageWork


def distill_work(prompt: int, text: int, batch_size: int, batch_tokens: int | None) -> StageWork:
    """Rows of a prompt and a teacher's text.

    Args:
        prompt: tokens of the generator's prompt.
        text: tokens of a teacher's text.
        batch_size: ``distill.data.batch_size``.
        batch_tokens: ``distill.data.batch_tokens``, which takes precedence.
    """
    rows = max(1, batch_tokens // (prompt + text)) if batch_tokens else batch_size
    key = "batch_tokens" if batch_tokens else "batch_size"
    return StageWork("distill", "generator", "distill", [Work(rows, prompt + text, True)], f"distill.data.{key}")
