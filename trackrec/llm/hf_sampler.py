"""The sampler that needs nothing but transformers: prefills a prompt once and expands its cache for the draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trackrec.llm.sampler import Draw, Sampler

if TYPE_CHECKING:
    from trackrec.llm.backbone import LanguageModel

_SHORTLIST = 256


def top_p_choice(logits: Tensor, u: Tensor, temperature: float, top_p: float) -> Tensor:
    """Nucleus sampling by inverting the cumulative distribution, one uniform number per row.

    Args:
        logits: (B, V).
        u: (B,) in [0, 1).
        temperature: divides the logits.
        top_p: the nucleus is the smallest set of most likely tokens with at least this probability
            (Holtzman et al. 2020).

    Returns:
        (B,) token ids. A short list of the most likely tokens decides; rows whose nucleus is longer are sorted whole.
    """
    scaled = logits.float()
    if temperature != 1:
        scaled = scaled / temperature
    total = scaled.logsumexp(-1, keepdim=True)
    top, ids = scaled.topk(min(_SHORTLIST, scaled.shape[-1]), dim=-1)
    p = (top - total).exp().double()
    chosen = _invert(p, ids, u, top_p)
    long = p.sum(-1) < top_p
    if long.any() and top.shape[-1] < scaled.shape[-1]:
        top, ids = scaled[long].sort(dim=-1, descending=True)
        chosen[long] = _invert((top - total[long]).exp().double(), ids, u[long], top_p)
    return chosen


def _invert(p: Tensor, ids: Tensor, u: Tensor, top_p: float) -> Tensor:
    """The token of a descending distribution p (B, k) at which the nucleus' cumulative probability passes u (B,)."""
    kept = (p.cumsum(-1) - p) < top_p
    inside = (p * kept).cumsum(-1)
    place = (inside <= u.double().unsqueeze(-1) * inside[:, -1:]).sum(-1)
    place = place.clamp(max=kept.sum(-1) - 1)
    return ids.gather(-1, place.unsqueeze(-1)).squeeze(-1)


class SeededTopP:
    """A transformers logits processor that leaves one token per row: the one its own seed draws."""

    def __init__(self, seeds: Sequence[int], prompt_length: int, steps: int, temperature: float, top_p: float) -> None:
        self.prompt_length, self.temperature, self.top_p = prompt_length, temperature, top_p
        generator = torch.Generator()
        self.u = torch.stack(
            [torch.rand(steps, generator=generator.manual_seed(seed), dtype=torch.float64) for seed in seeds]
        )

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(B, T) ids so far and (B, V) scores -> (B, V): 0 for the drawn token, -inf elsewhere."""
        u = self.u[:, input_ids.shape[1] - self.prompt_length].to(scores.device)
        chosen = top_p_choice(scores, u, self.temperature, self.top_p)
        return torch.full_like(scores, -torch.inf).scatter_(-1, chosen.unsqueeze(-1), 0.0)


class HFSampler(Sampler):
    """Generation by transformers on the model that also trains: no second copy, any device."""

    def draw(
        self,
        lm: LanguageModel,
        adapter: str | None,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]] | None,
        on_progress: Callable[[int], object],
    ) -> list[list[Draw]]:
        """See `Sampler.draw`. Prompts of like length share a batch, so that little is padded."""
        longest = max(map(len, prompts), default=0) + self.max_new_tokens
        if longest > lm.max_length:
            raise ValueError(
                f"a prompt with sampler.init_args.max_new_tokens has {longest} tokens, the model reaches "
                f"{lm.max_length}: lower prompts.max_history or max_new_tokens."
            )
        draws: list[list[Draw]] = [[] for _ in prompts]
        n = len(seeds[0]) if seeds else 1
        with lm.using(adapter):
            for batch in self._batches(prompts, n):
                rows = [prompts[index] for index in batch]
                row_seeds = [seed for index in batch for seed in seeds[index]] if seeds else None
                made = self._draw_batch(lm, rows, n, row_seeds)
                for place, index in enumerate(batch):
                    draws[index] = made[place * n : (place + 1) * n]
                on_progress(len(batch))
        return draws

    def _batches(self, prompts: Sequence[Sequence[int]], n: int) -> Iterator[list[int]]:
        order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
        batch: list[int] = []
        for index in order:
            width = len(prompts[batch[0] if batch else index]) + self.max_new_tokens
            if batch and (len(batch) + 1) * n * width > self.batch_tokens:
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def _draw_batch(
        self, lm: LanguageModel, prompts: Sequence[Sequence[int]], n: int, seeds: Sequence[int] | None
    ) -> list[Draw]:
        """n draws of each prompt of one batch, in prompt order. Left padding, since the new tokens go right."""
        from transformers import GenerationConfig, LogitsProcessorList

        width = max(map(len, prompts))
        pad = lm.base.generation_config.pad_token_id or lm.chat.eos_id
        ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in prompts], device=lm.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=lm.device)
        cache = self._prefill(lm, ids, mask, n)
        processors = LogitsProcessorList()
        if seeds is not None:
            processors.append(SeededTopP(seeds, width, self.max_new_tokens, self.temperature, self.top_p))
        out = lm.base.generate(
            input_ids=ids.repeat_interleave(n, 0),
            attention_mask=mask.repeat_interleave(n, 0),
            past_key_values=cache,
            logits_processor=processors,
            generation_config=GenerationConfig(
                max_new_tokens=self.max_new_tokens, do_sample=False, eos_token_id=lm.chat.eos_id, pad_token_id=pad
            ),
        )
        return [_cut(row, lm.chat.eos_id) for row in out[:, width:].tolist()]

    def _prefill(self, lm: LanguageModel, ids: Tensor, mask: Tensor, n: int) -> Any:
        """Keys and values of all but the last prompt token, computed once per prompt and repeated n times."""
        from transformers import DynamicCache

        if ids.shape[1] < 2:
            return None
        cache = DynamicCache(config=lm.base.config)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        lm.base.get_decoder()(
            input_ids=ids[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=positions[:, :-1],
            past_key_values=cache,
            use_cache=True,
        )
        if n > 1:
            cache.batch_repeat_interleave(n)
        return cache


def _cut(row: list[int], eos: int) -> Draw:
    if eos in row:
        return Draw(row[: row.index(eos) + 1], "stop")
    return Draw(row, "length")
