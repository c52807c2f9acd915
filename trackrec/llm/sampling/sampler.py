"""Interface of the text engines: draws from a prompt, each with its own seed."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from trackrec.runtime.errors import SettingError
from trackrec.storage.atomic import stable_hash

if TYPE_CHECKING:
    from trackrec.llm.backbone import LanguageModel
    from trackrec.llm.loading import BackboneSettings


class Draw(NamedTuple):
    """One generated text: its tokens (with the end-of-text token if it was generated) and why it ended."""

    token_ids: list[int]
    finish_reason: Literal["stop", "length"]


def draw_seed(seed: int, round_: int, history_id: str, draw: int) -> int:
    """Seed of one draw. It depends only on the arguments, so that no draw depends on the others."""
    return int(stable_hash(seed, round_, history_id, draw, digits=15), 16)


class Sampler(abc.ABC):
    """Generation settings, and the methods that engines implement.

    Args:
        n: draws per history in the loop (N of the paper).
        temperature: 1.0 leaves the model's distribution as it is.
        top_p: the smallest set of tokens whose probability reaches this is sampled from.
        max_new_tokens: length limit of a draw.
        batch_tokens: most tokens in a batch: the prompts (once each, if draws can share them) plus the new tokens of
            all draws.
    """

    def __init__(
        self,
        n: int = 10,
        temperature: float = 1.0,
        top_p: float = 0.9,
        max_new_tokens: int = 320,
        batch_tokens: int = 32768,
    ) -> None:
        for key, value in (("n", n), ("max_new_tokens", max_new_tokens), ("batch_tokens", batch_tokens)):
            if value < 1:
                raise SettingError(f"sampler.init_args.{key} must be at least 1, got {value}.")
        if not 0 < top_p <= 1:
            raise SettingError(f"sampler.init_args.top_p must be in (0, 1], got {top_p}.")
        if temperature <= 0:
            raise SettingError(f"sampler.init_args.temperature must be above 0, got {temperature}.")
        self.n, self.temperature, self.top_p = n, temperature, top_p
        self.max_new_tokens, self.batch_tokens = max_new_tokens, batch_tokens

    def check(self, backbone: BackboneSettings) -> None:  # noqa: B027 - most engines work with any model
        """Called before anything runs: raise if this engine can't use ``backbone`` on this machine."""

    def check_reach(self, lm: LanguageModel, longest: int) -> None:
        """Called before a stage samples: check that the longest prompt and its text fit the model's position range.

        Args:
            lm: the model.
            longest: tokens of the longest prompt.

        Raises:
            SettingError: they don't fit; names the keys to lower.
        """
        if longest + self.max_new_tokens > lm.max_length:
            raise SettingError(
                f"a prompt with sampler.init_args.max_new_tokens has {longest + self.max_new_tokens} tokens, the model "
                f"reaches {lm.max_length}: lower prompts.generator.max_history or max_new_tokens."
            )

    def release(self) -> None:  # noqa: B027 - most engines keep nothing
        """Free what the engine keeps between draws. It may draw again afterwards."""

    @abc.abstractmethod
    def draw(
        self,
        lm: LanguageModel,
        adapter: str | None,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]] | None,
        on_progress: Callable[[int], object],
    ) -> list[list[Draw]]:
        """Texts for each prompt.

        Args:
            lm: the model.
            adapter: the adapter to use; None is the plain base.
            prompts: token ids.
            seeds: one list per prompt, with a seed per draw; None: one greedy text per prompt.
            on_progress: called with the number of prompts done since the last call.

        Returns:
            One list of draws per prompt, in the order of ``prompts``.
        """
