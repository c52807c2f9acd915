"""Generation token by token: a prompt is computed once for all its draws, and finished texts leave the batch.

The keys and values of a prompt are kept once for all its draws (`SharedCache`); a draw stores only those of its new
tokens, in a buffer that is filled in place. Models whose attention doesn't support this (sliding windows, eager) repeat
the prompt's cache for every draw (`RepeatedCache`). Both give the same tokens.

Shapes: P prompts, n draws of each, R = P n rows, W width of the left-padded prompts, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from trackrec.llm.kernels.attention import NAME, SharedPrefix

if TYPE_CHECKING:
    from trackrec.llm.backbone import LanguageModel

Choose = Callable[[Tensor, Tensor, int], Tensor]

# Prompt tokens that a CPU computes at once: with more, a layer's tensors leave the CPU cache (1.2 times the time).
_CPU_TOKENS = 2048
# Finished rows are removed only when at least this share of the rows can go, because the removal copies the cache.
_WORTH_LEAVING = 0.125


class DrawCache(Protocol):
    """The keys and values that one decoding step reads."""

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the decoder's next call."""

    def keep(self, prompts: Tensor, rows: Tensor) -> None:
        """Keep only these prompts (P',) and rows (P' n',), as indices into the current ones."""


class SharedCache(Cache):
    """One copy of each prompt's keys and values, and a buffer per draw.

    Args:
        prompts: the cache after the pass over the prompts.
        seen: (P, W) True at prompt tokens, False at padding.
        n: draws per prompt.
        steps: largest number of new tokens.
    """

    def __init__(self, prompts: DynamicCache, seen: Tensor, n: int, steps: int) -> None:
        super().__init__(layers=[])
        layers: list[Any] = prompts.layers
        self._prompts: list[tuple[Tensor, Tensor]] = [(layer.keys, layer.values) for layer in layers]
        self._hidden = torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, -torch.inf)
        self._n, self._steps, self._width = n, steps, seen.shape[1]
        self._buffers: list[tuple[Tensor, Tensor] | None] = [None] * len(self._prompts)
        self._length = 0

    def arguments(self) -> dict[str, Any]:
        """See `DrawCache`. The mask is a placeholder: `SharedPrefix` defines what is visible."""
        prefix = SharedPrefix(self._prompts, self._hidden)
        rows = len(self._hidden) * self._n
        mask = torch.zeros(rows, 1, 1, 1, device=self._hidden.device)
        self._length += 1
        return {"past_key_values": self, "attention_mask": mask, "shared_prefix": prefix}

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        """Store the new token's (R, G, 1, D) and return those of all new tokens so far, (R, G, t, D).

        Keys and values may have different widths D.
        """
        buffers = self._buffers[layer_idx]
        if buffers is None:
            keys, values = (
                states.new_empty(*states.shape[:2], self._steps, states.shape[-1])
                for states in (key_states, value_states)
            )
            buffers = self._buffers[layer_idx] = (keys, values)
        for buffer, states in zip(buffers, (key_states, value_states), strict=True):
            buffer[:, :, self._length - 1] = states[:, :, 0]
        return tuple(buffer[:, :, : self._length] for buffer in buffers)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of tokens before the next one."""
        return self._width + self._length

    def keep(self, prompts: Tensor, rows: Tensor) -> None:
        """See `DrawCache`."""
        if len(prompts) < len(self._hidden):
            self._prompts = [(keys[prompts], values[prompts]) for keys, values in self._prompts]
            self._hidden = self._hidden[prompts]
        self._n = len(rows) // len(prompts)
        self._buffers = [None if pair is None else (pair[0][rows], pair[1][rows]) for pair in self._buffers]


class RepeatedCache:
    """The cache of transformers, with each prompt repeated for every draw."""

    def __init__(self, prompts: DynamicCache, seen: Tensor, n: int) -> None:
        self._cache = prompts
        self._seen = seen.repeat_interleave(n, 0)
        if n > 1:
            prompts.batch_repeat_interleave(n)

    def arguments(self) -> dict[str, Any]:
        """See `DrawCache`."""
        self._seen = torch.cat([self._seen, self._seen.new_ones(len(self._seen), 1)], dim=1)
        return {"past_key_values": self._cache, "attention_mask": self._seen.long()}

    def keep(self, prompts: Tensor, rows: Tensor) -> None:
        """See `DrawCache`."""
        self._seen = self._seen[rows]
        self._cache.batch_select_indices(rows)


def can_share(lm: LanguageModel) -> bool:
    """Whether the draws of a prompt can read one copy of its keys and values."""
    return lm.shares_prompts and lm.can_pack() and lm.base.config._attn_implementation == NAME


def write_texts(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], n: int, max_new_tokens: int, choose: Choose
) -> list[list[int]]:
    """n texts of each prompt, in prompt order, each up to its end-of-text token or the length limit.

    Call it inside `LanguageModel.using`.

    Args:
        lm: the model, with its adapter active.
        prompts: token ids.
        n: texts per prompt.
        max_new_tokens: length limit.
        choose: called with (B, V) logits, the B row indices and the step; returns (B,) tokens.
    """
    hidden, cache, lengths = _read_prompts(lm, prompts, n, max_new_tokens)
    rows = torch.arange(len(prompts) * n, device=lm.device)
    texts = torch.full((len(rows), max_new_tokens), lm.chat.eos_id, device=lm.device)
    hidden, lengths = hidden.repeat_interleave(n, 0), lengths.repeat_interleave(n)
    width = n  # rows per prompt that are still computed
    writing = torch.ones(len(rows), dtype=torch.bool, device=lm.device)
    stops = torch.tensor(sorted(lm.chat.stop_ids), device=lm.device)
    decoder = lm.base.get_decoder()
    for step in range(max_new_tokens):
        tokens = choose(lm.logits(hidden), rows, step)
        tokens = torch.where(writing, tokens, lm.chat.eos_id)
        # Rows that have finished may still be computed; only unfinished ones store their token.
        texts[rows[writing], step] = tokens[writing]
        writing = writing & ~torch.isin(tokens, stops)
        if not writing.any() or step + 1 == max_new_tokens:
            break
        remaining = _remaining(writing.view(-1, width))
        if remaining is not None:
            kept_prompts, kept = remaining
            cache.keep(kept_prompts, kept)
            width = len(kept) // len(kept_prompts)
            rows, tokens, lengths, writing = rows[kept], tokens[kept], lengths[kept], writing[kept]
        hidden = decoder(
            input_ids=tokens.unsqueeze(1),
            position_ids=(lengths + step).unsqueeze(1),
            use_cache=True,
            **cache.arguments(),
        ).last_hidden_state[:, -1]
    return [_cut(row, lm.chat.stop_ids) for row in texts.tolist()]


def _read_prompts(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], n: int, steps: int
) -> tuple[Tensor, DrawCache, Tensor]:
    """Hidden states (P, D) of the last prompt tokens, the cache, and (P,) lengths. Prompts are padded on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in prompts], device=lm.device)
    seen = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in prompts], device=lm.device)
    shares = can_share(lm)
    rows = len(prompts) if lm.device.type != "cpu" or not shares else max(1, _CPU_TOKENS // width)
    parts = [_read_rows(lm, *part) for part in zip(ids.split(rows), seen.split(rows), strict=True)]
    filled = parts[0][1] if len(parts) == 1 else _concatenate([part for _, part in parts])
    cache: DrawCache = SharedCache(filled, seen, n, steps) if shares else RepeatedCache(filled, seen, n)
    return torch.cat([last for last, _ in parts]), cache, seen.sum(-1)


def _read_rows(lm: LanguageModel, ids: Tensor, seen: Tensor) -> tuple[Tensor, DynamicCache]:
    """Last hidden states (P, D) and the cache of left-padded prompts (P, W)."""
    filled = DynamicCache(config=lm.base.config)
    out = lm.base.get_decoder()(
        input_ids=ids,
        attention_mask=seen.long(),
        position_ids=(seen.cumsum(-1) - 1).clamp(min=0),
        past_key_values=filled,
        use_cache=True,
    )
    return out.last_hidden_state[:, -1], filled


def _concatenate(parts: Sequence[DynamicCache]) -> DynamicCache:
    """One cache with the prompts of several caches of the same width; empties the parts."""
    merged = DynamicCache()
    layers: list[tuple[Any, ...]] = list(zip(*(part.layers for part in parts), strict=True))
    for index, layer in enumerate(layers):
        merged.update(torch.cat([part.keys for part in layer]), torch.cat([part.values for part in layer]), index)
        for part in layer:
            part.keys = part.values = None
    return merged


def _remaining(writing: Tensor) -> tuple[Tensor, Tensor] | None:
    """Unfinished prompts (P',) and rows (P' n',), n' per prompt; None while too few rows have finished to copy.

    Args:
        writing: (P, n) True for unfinished texts.
    """
    alive = writing.sum(-1)
    prompts = (alive > 0).nonzero().squeeze(-1)
    width = int(alive.max())
    if writing.numel() - len(prompts) * width < _WORTH_LEAVING * writing.numel():
        return None
    # Unfinished rows first; a prompt with fewer unfinished rows is filled up with finished ones.
    order = (~writing[prompts]).to(torch.uint8).argsort(dim=-1, stable=True)[:, :width]
    return prompts, (prompts.unsqueeze(-1) * writing.shape[1] + order).flatten()


def _cut(row: list[int], stops: Collection[int]) -> list[int]:
    """The tokens up to and including the first stop token."""
    end = next((position for position, token in enumerate(row, 1) if token in stops), len(row))
    return row[:end]
