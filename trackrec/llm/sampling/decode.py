"""Token by token: prompts are read once, their draws share what was read, and finished texts leave.

The keys and values of a prompt are kept once for all its draws (`SharedCache`); a draw owns those of its new tokens
only, in a buffer that is filled in place. Models whose attention can't be told so (sliding windows, eager) repeat the
prompt's cache per draw instead (`RepeatedCache`). Both give the same tokens.

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

# Tokens of the prompts that a CPU reads at once: of more, a layer's tensors leave the cache (1.2 times the time).
_CPU_TOKENS = 2048
# Rows are gathered anew only when at least this share of them has finished.
_WORTH_LEAVING = 0.125


class DrawCache(Protocol):
    """What one decoding step needs to know of the past."""

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the decoder's next call."""

    def keep(self, prompts: Tensor, rows: Tensor) -> None:
        """Go on with these prompts (P',) and rows (P' n',), both numbered as they stand now."""


class SharedCache(Cache):
    """One copy of each prompt's keys and values, and a buffer per draw.

    Args:
        prompts: filled by the pass over the prompts.
        seen: (P, W) True where a prompt token stands.
        n: draws per prompt.
        steps: most new tokens.
    """

    def __init__(self, prompts: DynamicCache, seen: Tensor, n: int, steps: int) -> None:
        super().__init__(layers=[])
        layers: list[Any] = prompts.layers
        self._prompts: list[tuple[Tensor, Tensor]] = [(layer.keys, layer.values) for layer in layers]
        self._hidden = torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, -torch.inf)
        self._n, self._steps, self._width = n, steps, seen.shape[1]
        self._own: list[tuple[Tensor, Tensor] | None] = [None] * len(self._prompts)
        self._length = 0

    def arguments(self) -> dict[str, Any]:
        """See `DrawCache`. The mask is a placeholder: `SharedPrefix` says what is visible."""
        prefix = SharedPrefix(self._prompts, self._hidden)
        rows = len(self._hidden) * self._n
        mask = torch.zeros(rows, 1, 1, 1, device=self._hidden.device)
        self._length += 1
        return {"past_key_values": self, "attention_mask": mask, "shared_prefix": prefix}

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        """File the new token's (R, G, 1, D) and return all own ones, (R, G, t, D)."""
        own = self._own[layer_idx]
        if own is None:
            rows, groups, _one, dim = key_states.shape
            shape = (rows, groups, self._steps, dim)
            own = self._own[layer_idx] = (key_states.new_empty(shape), value_states.new_empty(shape))
        for buffer, states in zip(own, (key_states, value_states), strict=True):
            buffer[:, :, self._length - 1] = states[:, :, 0]
        return tuple(buffer[:, :, : self._length] for buffer in own)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens before the next one."""
        return self._width + self._length

    def keep(self, prompts: Tensor, rows: Tensor) -> None:
        """See `DrawCache`."""
        if len(prompts) < len(self._hidden):
            self._prompts = [(keys[prompts], values[prompts]) for keys, values in self._prompts]
            self._hidden = self._hidden[prompts]
        self._n = len(rows) // len(prompts)
        self._own = [None if own is None else (own[0][rows], own[1][rows]) for own in self._own]


class RepeatedCache:
    """transformers' own cache, each prompt's repeated for every draw."""

    def __init__(self, prompts: DynamicCache, seen: Tensor, n: int) -> None:
        self._cache, self._seen = prompts, seen.repeat_interleave(n, 0)
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
    return lm.can_pack() and lm.base.config._attn_implementation == NAME


def write_texts(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], n: int, max_new_tokens: int, choose: Choose
) -> list[list[int]]:
    """n texts of each prompt, in prompt order, each up to its end-of-text token or the length limit.

    Call it inside `LanguageModel.using`.

    Args:
        lm: the model, its adapter in force.
        prompts: token ids.
        n: texts per prompt.
        max_new_tokens: length limit.
        choose: gets (B, V) logits, the B rows' numbers and the step, and returns (B,) tokens.
    """
    hidden, cache, lengths = _read_prompts(lm, prompts, n, max_new_tokens)
    rows = torch.arange(len(prompts) * n, device=lm.device)
    texts = torch.full((len(rows), max_new_tokens), lm.chat.eos_id, device=lm.device)
    hidden, lengths = hidden.repeat_interleave(n, 0), lengths.repeat_interleave(n)
    width = n  # rows of a prompt that are computed
    writing = torch.ones(len(rows), dtype=torch.bool, device=lm.device)
    stops = torch.tensor(sorted(lm.chat.stop_ids), device=lm.device)
    decoder = lm.base.get_decoder()
    for step in range(max_new_tokens):
        tokens = choose(lm.logits(hidden), rows, step)
        tokens = torch.where(writing, tokens, lm.chat.eos_id)
        # A row may stand twice beside its finished siblings: only the writing copy files its token.
        texts[rows[writing], step] = tokens[writing]
        writing = writing & ~torch.isin(tokens, stops)
        if not writing.any() or step + 1 == max_new_tokens:
            break
        picked = _leave(writing.view(-1, width))
        if picked is not None:
            kept, chosen = picked
            cache.keep(kept, chosen)
            width = len(chosen) // len(kept)
            rows, tokens, lengths, writing = rows[chosen], tokens[chosen], lengths[chosen], writing[chosen]
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
    """Hidden states (P, D) of the last prompt tokens, the cache, and (P,) lengths; new tokens go right of them."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in prompts], device=lm.device)
    seen = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in prompts], device=lm.device)
    shares = can_share(lm)
    rows = len(prompts) if lm.device.type != "cpu" or not shares else max(1, _CPU_TOKENS // width)
    read = [_read_rows(lm, *part) for part in zip(ids.split(rows), seen.split(rows), strict=True)]
    filled = read[0][1] if len(read) == 1 else _joined([part for _, part in read])
    cache: DrawCache = SharedCache(filled, seen, n, steps) if shares else RepeatedCache(filled, seen, n)
    return torch.cat([last for last, _ in read]), cache, seen.sum(-1)


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


def _joined(parts: Sequence[DynamicCache]) -> DynamicCache:
    """The prompts of several caches of one width in one."""
    whole = DynamicCache()
    layers: list[tuple[Any, ...]] = list(zip(*(part.layers for part in parts), strict=True))
    for index, layer in enumerate(layers):
        whole.update(torch.cat([one.keys for one in layer]), torch.cat([one.values for one in layer]), index)
        for one in layer:
            one.keys = one.values = None
    return whole


def _leave(writing: Tensor) -> tuple[Tensor, Tensor] | None:
    """Which prompts and rows go on, once that is worth a copy: (P',) and (P' n',), n' rows of each prompt.

    Args:
        writing: (P, n) which texts are unfinished.
    """
    alive = writing.sum(-1)
    prompts, width = (alive > 0).nonzero().squeeze(-1), int(alive.max())
    if writing.numel() - len(prompts) * width < _WORTH_LEAVING * writing.numel():
        return None
    # Unfinished rows first; a prompt with fewer of them fills up with finished ones.
    order = (~writing[prompts]).to(torch.uint8).argsort(dim=-1, stable=True)[:, :width]
    return prompts, (prompts.unsqueeze(-1) * writing.shape[1] + order).flatten()


def _cut(row: list[int], stops: Collection[int]) -> list[int]:
    end = next((place for place, token in enumerate(row, 1) if token in stops), len(row))
    return row[:end]
