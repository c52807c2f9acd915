"""The sampler that needs nothing but transformers: it writes with the model that also trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from trackrec.llm.sampler import Draw, Sampler

if TYPE_CHECKING:
    from trackrec.llm.backbone import LanguageModel


class HFSampler(Sampler):
    """Generation on the model that also trains: no second copy, any device."""

    def draw(
        self,
        lm: LanguageModel,
        adapter: str | None,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]] | None,
        on_progress: Callable[[int], object],
    ) -> list[list[Draw]]:
        """See `Sampler.draw`. Prompts of like length share a batch, so that little is padded."""
        from trackrec.llm.decode import can_share

        longest = max(map(len, prompts), default=0) + self.max_new_tokens
        if longest > lm.max_length:
            raise ValueError(
                f"a prompt with sampler.init_args.max_new_tokens has {longest} tokens, the model reaches "
                f"{lm.max_length}: lower prompts.max_history or max_new_tokens."
            )
        draws: list[list[Draw]] = [[] for _ in prompts]
        n = len(seeds[0]) if seeds else 1
        with lm.using(adapter):
            for batch in self._batches(prompts, n, can_share(lm)):
                rows = [prompts[index] for index in batch]
                row_seeds = [seed for index in batch for seed in seeds[index]] if seeds else None
                made = self._draw_batch(lm, rows, n, row_seeds)
                for place, index in enumerate(batch):
                    draws[index] = made[place * n : (place + 1) * n]
                on_progress(len(batch))
        return draws

    def _batches(self, prompts: Sequence[Sequence[int]], n: int, shared: bool) -> Iterator[list[int]]:
        copies = 1 if shared else n
        order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
        batch: list[int] = []
        for index in order:
            width = copies * len(prompts[batch[0] if batch else index]) + n * self.max_new_tokens
            if batch and (len(batch) + 1) * width > self.batch_tokens:
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def _draw_batch(
        self, lm: LanguageModel, prompts: Sequence[Sequence[int]], n: int, seeds: Sequence[int] | None
    ) -> list[Draw]:
        """n draws of each prompt of one batch, in prompt order."""
        from trackrec.llm.decode import write_texts
        from trackrec.llm.nucleus import SeededTopP, greedy

        steps = self.max_new_tokens
        choose = greedy if seeds is None else SeededTopP(seeds, steps, self.temperature, self.top_p)
        texts = write_texts(lm, prompts, n, steps, choose)
        return [Draw(ids, "stop" if ids[-1] == lm.chat.eos_id else "length") for ids in texts]
