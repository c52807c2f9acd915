"""The sampler that only needs transformers: it generates with the model that also trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from trackrec.llm.sampling.sampler import Draw, Sampler

if TYPE_CHECKING:
    from trackrec.llm.backbone import LanguageModel
    from trackrec.llm.memory import FittingBatches


class DrawBatch(NamedTuple):
    """Prompts that are sampled together.

    Attributes:
        prompts: token ids of each prompt.
        n: draws per prompt.
        seeds: one per draw, in the order of prompts, then draws; None for greedy.
        shared: whether the draws of a prompt read one copy of its keys and values.
    """

    prompts: Sequence[Sequence[int]]
    n: int
    seeds: Sequence[int] | None
    shared: bool

    def tokens(self, new_tokens: int) -> int:
        """Tokens in memory if every draw reaches ``new_tokens``."""
        width = max(map(len, self.prompts))
        return len(self.prompts) * ((1 if self.shared else self.n) * width + self.n * new_tokens)

    def halves(self) -> tuple[DrawBatch, DrawBatch] | None:
        """Half of the prompts each; for a single prompt, half of the draws each. None if neither can be split."""
        n = self.n
        middle = len(self.prompts) // 2
        if middle:
            seeds = (None, None) if self.seeds is None else (self.seeds[: middle * n], self.seeds[middle * n :])
            halves = (self.prompts[:middle], self.prompts[middle:])
            return self._replace(prompts=halves[0], seeds=seeds[0]), self._replace(prompts=halves[1], seeds=seeds[1])
        if n == 1 or self.seeds is None:
            return None
        first = n // 2
        return self._replace(n=first, seeds=self.seeds[:first]), self._replace(n=n - first, seeds=self.seeds[first:])


class HFSampler(Sampler):
    """Generates with the model that also trains: no second copy of it, and any device."""

    def draw(
        self,
        lm: LanguageModel,
        adapter: str | None,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]] | None,
        on_progress: Callable[[int], object],
    ) -> list[list[Draw]]:
        """See `Sampler.draw`. Prompts of similar length share a batch, so that there is little padding."""
        from trackrec.llm.sampling.decode import can_share

        self.check_reach(lm, max(map(len, prompts), default=0))
        draws: list[list[Draw]] = [[] for _ in prompts]
        n = len(seeds[0]) if seeds else 1
        with lm.using(adapter):
            for batch in self._batches(prompts, n, can_share(lm)):
                rows = [prompts[index] for index in batch]
                row_seeds = [seed for index in batch for seed in seeds[index]] if seeds else None
                draw_batch = DrawBatch(rows, n, row_seeds, can_share(lm))
                pieces = self._memory.run(draw_batch, lambda piece: self._draw_batch(lm, piece))
                batch_draws = [draw for piece in pieces for draw in piece]
                for row, index in enumerate(batch):
                    draws[index] = batch_draws[row * n : (row + 1) * n]
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

    @cached_property
    def _memory(self) -> FittingBatches[DrawBatch]:
        """One object for all draws of a run: a batch size that failed isn't tried again."""
        from trackrec.llm.memory import FittingBatches

        return FittingBatches(
            "sampling",
            "Lower sampler.init_args.batch_tokens to start with such pieces.",
            "Lower sampler.init_args.max_new_tokens or prompts.generator.max_history, or choose backbone.quantize: "
            "nf4.",
            lambda batch: batch.tokens(self.max_new_tokens),
            DrawBatch.halves,
        )

    def _draw_batch(self, lm: LanguageModel, batch: DrawBatch) -> list[Draw]:
        """n draws of each prompt of one batch, in prompt order."""
        from trackrec.llm.sampling.decode import write_texts
        from trackrec.llm.sampling.nucleus import SeededTopP, greedy

        steps = self.max_new_tokens
        choose = greedy if batch.seeds is None else SeededTopP(batch.seeds, steps, self.temperature, self.top_p)
        texts = write_texts(lm, batch.prompts, batch.n, steps, choose)
        return [Draw(ids, "stop" if ids[-1] in lm.chat.stop_ids else "length") for ids in texts]
