"""Compares this package's own forward passes of a model with those of transformers, when the model is loaded.

`LanguageModel` computes logits only where they are wanted, packs several texts into one row and keeps one copy of a
prompt for all its draws. A family of models that scales its logits otherwise, or reads more than the mask, would give
wrong probabilities without an error. A short text shows it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trackrec.llm.logprobs import selected_logprobs
from trackrec.llm.memory import MemoryLimitError, ran_out
from trackrec.llm.packing import Branch, Layout, Tree, pack, path_ids, unroll
from trackrec.runtime.errors import SettingError, TrackRecError, reason

if TYPE_CHECKING:
    from trackrec.llm.backbone import LanguageModel

log = logging.getLogger(__name__)

_TEXT = (
    "The films a viewer rated, oldest first: The Silver River (1994) [Drama, War]: liked. Iron Coast (2001) [Action]: "
    "disliked. Describe the taste of this viewer in a few words, and say how sure that is."
)
_PROMPT, _ANSWER = 16, 12  # tokens
_STEPS = 4  # of generation
_LIKELIEST = 8  # next tokens that are compared at each position


def tolerance(lm: LanguageModel) -> float:
    """How far the log-probabilities of two computations may differ, root mean square in nats: rounding does that.

    SmolLM2-135M differs by 1e-5 in float32, .009 in float16 and .07 in bfloat16, with nf4 weights or without. int8
    rounds activations too (.3).
    """
    if lm.settings.quantize == "int8":
        return 1.0
    return {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.2}[lm.settings.dtype]


def root_mean_square(gaps: Tensor) -> float:
    """Of all entries; NaN if one is."""
    return float(gaps.double().square().mean().sqrt())


def check_forward(lm: LanguageModel, key: str) -> None:
    """Compare plain rows, a packed row and a few steps of generation with the model's own eager logits.

    What is at fault is left out, with a warning, where the model can do without it: the prompt that draws share, packed
    rows, the attention of this package.

    Args:
        lm: the model, without an adapter.
        key: the config key of its settings, for errors.

    Raises:
        SettingError: log-probabilities differ by more than rounding, or can't be computed: this family can't be used.
        MemoryLimitError: out of memory.
    """
    name = f"{key}.model {lm.settings.model} (family {lm.base.config.get_text_config().model_type})"
    try:
        with lm.using(None):
            _compare(lm, name)
    except TrackRecError:
        raise
    except Exception as error:
        if ran_out(error):
            raise MemoryLimitError(
                f"{name} is loaded, but a prompt of {_PROMPT} tokens doesn't fit into memory next to it "
                f"({reason(error)}). Choose a smaller one, or quantize: nf4."
            ) from error
        raise SettingError(
            f"{name} can't be used: its own forward pass in transformers fails ({type(error).__name__}, "
            f"{reason(error)}). Choose a model of another family; docs/models.md lists those that work."
        ) from error


def _compare(lm: LanguageModel, name: str) -> None:
    probe = _Probe(lm)

    def faults() -> dict[str, str]:
        found = {"plain rows": probe.fault(probe.plain), "generation": probe.fault(probe.generation)}
        return {what: fault for what, fault in found.items() if fault}

    def told(found: dict[str, str]) -> str:
        return "; ".join(f"{what}: {fault}" for what, fault in found.items())

    wrong = faults()
    if set(wrong) == {"generation"} and lm.shares_prompts:
        lm.shares_prompts = False
        log.warning("%s can't read a prompt that its draws share (%s): each draw gets a copy.", name, told(wrong))
        wrong = faults()
    if wrong and lm.plain_attention():
        ours, wrong = wrong, faults()
        if not wrong:
            log.warning("%s: trackrec's attention differs from the model's own (%s): using that.", name, told(ours))
    if wrong:
        raise SettingError(
            f"{name} can't be used: trackrec's log-probabilities are not those of the model's own forward pass in "
            f"transformers ({told(wrong)}; {tolerance(lm):g} nats are allowed in {lm.settings.dtype}). Choose a model "
            "of another family; docs/models.md lists those that work."
        )
    if lm.can_pack() and (fault := probe.fault(probe.packed)):
        lm.dont_pack()
        log.warning("%s computes packed rows differently (%s): using plain rows instead.", name, fault)


class _Probe:
    """A prompt, the same without its first half, two answers, and the model's own log-probabilities of what follows."""

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm
        ids = [token for token in lm.chat.encode_data(_TEXT) if token not in lm.chat.stop_ids]
        ids = ids * -(-(_PROMPT + 2 * _ANSWER) // len(ids))
        prompt = [*lm.chat.opening[:1], *ids][:_PROMPT]
        answers = [ids[_PROMPT + index * _ANSWER :][:_ANSWER] for index in range(2)]
        self.prompts, self.answers = [prompt, prompt[_PROMPT // 2 :]], answers
        self.tree: Tree = [Branch(prompt), *(Branch(ids, 0) for ids in answers)]
        with eager_attention(lm.base):
            self._own = {
                (start, end): self._own_logps([*first, *answer])
                for start, first in enumerate(self.prompts)
                for end, answer in enumerate(answers)
            }

    def _own_logps(self, ids: Sequence[int]) -> Tensor:
        logits: Tensor = self.lm.base(input_ids=torch.tensor([ids], device=self.lm.device), use_cache=False).logits[0]
        return logits.float().log_softmax(-1)

    def fault(self, compute: Any) -> str:
        """How a computation differs from the model's own; empty if it doesn't."""
        try:
            gap = root_mean_square(compute())
        except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, AssertionError) as error:
            if isinstance(error, TrackRecError) or ran_out(error):
                raise
            return f"{type(error).__name__}, {reason(error)}"
        return "" if gap <= tolerance(self.lm) else f"{gap:.3g} nats"

    def plain(self) -> Tensor:
        """Differences in plain rows."""
        return self._rows(unroll([self.tree]))

    def packed(self) -> Tensor:
        """Differences in one packed row."""
        return self._rows(pack([self.tree]))

    def _rows(self, layout: Layout) -> Tensor:
        spots = layout.spots[0]
        rows = [spot.row for spot in spots for _ in range(spot.length)]
        columns = [spot.start + offset for spot in spots for offset in range(spot.length)]
        own = torch.cat([self._own[0, 0], self._own[0, 1][_PROMPT:]])  # (M, V)
        due, tokens = own.topk(_LIKELIEST)
        return selected_logprobs(self.lm, self.lm.hidden(layout)[rows, columns], tokens) - due

    def generation(self) -> Tensor:
        """Differences in the first steps of both answers to both prompts, the shorter one padded."""
        from trackrec.llm.sampling.decode import write_texts

        gaps: list[Tensor] = []

        def follow(logits: Tensor, rows: Tensor, step: int) -> Tensor:
            logps = logits.log_softmax(-1)
            for logp, row in zip(logps, rows.tolist(), strict=True):
                start, end = divmod(row, 2)
                due, tokens = self._own[start, end][len(self.prompts[start]) - 1 + step].topk(_LIKELIEST)
                gaps.append(logp[tokens] - due)
            return torch.tensor([self.answers[row % 2][step] for row in rows.tolist()], device=logits.device)

        write_texts(self.lm, self.prompts, 2, _STEPS, follow)
        return torch.stack(gaps)


@contextmanager
def eager_attention(base: Any) -> Iterator[None]:
    """Let a model use its own eager attention; one that always does is left as it is."""
    before = base.config._attn_implementation
    set_attention(base, "eager")
    try:
        yield
    finally:
        set_attention(base, before)


def set_attention(base: Any, name: str) -> bool:
    """Set the attention of a model by its name in transformers; returns whether this changed anything."""
    if base.config._attn_implementation == name or not base._can_set_attn_implementation():
        return False
    base.set_attn_implementation(name)
    return True


def packing_gap(lm: LanguageModel, tree: Tree) -> float:
    """How far the log-probabilities of a tree's tokens differ between a packed row and plain rows.

    All tokens but the root's are compared, each given the tokens before it. The plain rows are computed one by one.

    Returns:
        The root mean square, in nats.
    """
    packed = pack([tree])
    parents = {branch.parent for branch in tree}
    seen: set[int] = {0}
    expected: dict[int, Tensor] = {}
    for leaf in (index for index in range(1, len(tree)) if index not in parents):
        ids = path_ids(tree, leaf)
        hidden = lm.hidden(unroll([[Branch(ids)]]))[0]
        start = len(ids)
        while leaf not in seen:
            seen.add(leaf)
            start -= len(tree[leaf].ids)
            expected[leaf] = _logps(lm, hidden[start - 1 : start - 1 + len(tree[leaf].ids)], tree[leaf].ids)
            leaf = tree[leaf].parent
    hidden = lm.hidden(packed)[0]
    gaps = []
    for index, due in expected.items():
        spot = packed.spots[0][index]
        columns = [spot.before, *range(spot.start, spot.start + spot.length - 1)]
        gaps.append(_logps(lm, hidden[columns], tree[index].ids) - due)
    return root_mean_square(torch.cat(gaps))


def _logps(lm: LanguageModel, hidden: Tensor, tokens: Sequence[int]) -> Tensor:
    """log p (M,) of the token that follows each position (M, D)."""
    return selected_logprobs(lm, hidden, torch.tensor(tokens, device=hidden.device).unsqueeze(-1)).squeeze(-1)
