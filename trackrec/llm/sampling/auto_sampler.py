"""The sampler that picks its engine: vLLM where it is available and worthwhile, else transformers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from trackrec.llm.sampling.hf_sampler import HFSampler
from trackrec.llm.sampling.sampler import Draw, Sampler
from trackrec.llm.vllm.process import vllm_obstacle
from trackrec.llm.vllm.sampler import VLLMSampler

if TYPE_CHECKING:
    from trackrec.llm.backbone import LanguageModel
    from trackrec.llm.loading import BackboneSettings

# vLLM keeps a second copy of the base in half of the GPU memory, next to the model that trains.
LEAST_GPU_BYTES = 16 << 30


class Choice(NamedTuple):
    """An engine, and why it was chosen."""

    engine: type[Sampler]
    why: str


def choose(backbone: BackboneSettings) -> Choice:
    """VLLMSampler on a GPU of 16 GiB or more where vLLM is installed and loads the weights; else HFSampler."""
    import torch

    if backbone.device == "cpu" or not torch.cuda.is_available():
        return Choice(HFSampler, "no GPU is used")
    if obstacle := vllm_obstacle(backbone):
        return Choice(HFSampler, obstacle.why)
    memory = torch.cuda.get_device_properties(0).total_memory
    if memory < LEAST_GPU_BYTES:
        return Choice(
            HFSampler, f"the GPU has {memory / 2**30:.0f} GiB, too few for a second copy of the model (16 are enough)"
        )
    return Choice(VLLMSampler, f"vLLM is installed and the GPU has {memory / 2**30:.0f} GiB")


class AutoSampler(Sampler):
    """`VLLMSampler` where it is available and worthwhile, else `HFSampler`.

    A run chooses the engine before anything else and records its name. The two engines write different texts, so a run
    that is resumed where the other engine is chosen samples again.

    Args:
        n: draws per history in the loop (N of the paper).
        temperature: 1.0 leaves the model's distribution as it is.
        top_p: the smallest set of tokens whose probability reaches this is sampled from.
        max_new_tokens: length limit of a draw.
        batch_tokens: see the engines; null is the engine's default.
    """

    def __init__(
        self,
        n: int = 10,
        temperature: float = 1.0,
        top_p: float = 0.9,
        max_new_tokens: int = 320,
        batch_tokens: int | None = None,
    ) -> None:
        super().__init__(n, temperature, top_p, max_new_tokens, 1 if batch_tokens is None else batch_tokens)
        args = {"n": n, "temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens}
        self._args: dict[str, Any] = args if batch_tokens is None else {**args, "batch_tokens": batch_tokens}
        # `trackrec plan` uses this value, so it must not depend on the machine.
        self.batch_tokens = batch_tokens or HFSampler().batch_tokens
        self._engines: dict[type[Sampler], Sampler] = {}

    def resolve(self, backbone: BackboneSettings) -> tuple[Sampler, dict[str, Any], str]:
        """The engine for a backbone, its config, and why it was chosen."""
        engine, why = choose(backbone)
        defaults = {name: entry.default for name, entry in inspect.signature(engine).parameters.items()}
        config = {"class_path": f"{engine.__module__}.{engine.__qualname__}", "init_args": {**defaults, **self._args}}
        if engine not in self._engines:
            self._engines[engine] = engine(**self._args)
        return self._engines[engine], config, why

    def check(self, backbone: BackboneSettings) -> None:
        """See `Sampler.check`; checks the chosen engine."""
        self.resolve(backbone)[0].check(backbone)

    def release(self) -> None:
        """See `Sampler.release`."""
        for engine in self._engines.values():
            engine.release()

    def draw(
        self,
        lm: LanguageModel,
        adapter: str | None,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]] | None,
        on_progress: Callable[[int], object],
    ) -> list[list[Draw]]:
        """See `Sampler.draw`."""
        return self.resolve(lm.settings)[0].draw(lm, adapter, prompts, seeds, on_progress)
