"""The batches of the stage ``sample``, for the memory plan."""

from __future__ import annotations

from trackrec.llm.memory_plan.footprint import Work
from trackrec.llm.memory_plan.stage_work import StageWork
from trackrec.llm.sampling.sampler import Sampler


def sample_work(prompt: int, sampler: Sampler) -> StageWork:
    """Reading prompts, then writing all their draws at once, with the keys and values of both in memory.

    Args:
        prompt: tokens of the generator's prompt.
        sampler: draws per prompt and their length.
    """
    draws, new = sampler.n, sampler.max_new_tokens
    prompts = max(1, sampler.batch_tokens // (prompt + draws * new))
    reading = Work(prompts, prompt, False, cached=prompts * prompt)
    writing = Work(prompts * draws, 1, False, cached=prompts * prompt + prompts * draws * new)
    return StageWork("sample", "generator", "align", [reading, writing], "sampler.init_args.batch_tokens")
