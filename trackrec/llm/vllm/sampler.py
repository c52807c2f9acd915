"""The sampler for long runs: vLLM in a separate process."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from trackrec.llm.sampling.sampler import Draw, Sampler
from trackrec.llm.vllm.host import VLLMHost
from trackrec.llm.vllm.process import VLLMSettings, check_vllm
from trackrec.runtime.quantities import GiB

if TYPE_CHECKING:
    from trackrec.llm.backbone import LanguageModel
    from trackrec.llm.loading import BackboneSettings


class VLLMSampler(Sampler):
    """Generation with vLLM, which computes each prompt once for all its draws and keeps its batch full.

    vLLM runs in a second process with its own copy of the base, from the first draw of a stage to the end of the stage.
    On a GPU both copies must fit; `gpu_memory_utilization` is vLLM's share of the total GPU memory. Adapters are served
    as LoRA, never merged.

    Every draw has its own seed, and every call starts with an empty prefix cache: the same shard gives the same texts
    on the same machine and version. The seed alone doesn't determine a draw, because the other texts in its batch
    change the last bits of its logits. Different engines share only the distribution of the texts.

    Args:
        n: draws per history in the loop (N of the paper).
        temperature: 1.0 leaves the model's distribution as it is.
        top_p: the smallest set of tokens whose probability reaches this is sampled from.
        max_new_tokens: length limit of a draw.
        batch_tokens: most tokens that vLLM computes in one step; memory limits how many texts it generates at once.
        gpu_memory_utilization: share of the total GPU memory that vLLM takes, in addition to this process's memory.
        max_model_len: longest prompt with its text, in tokens; null grows as needed, with a restart.
        enforce_eager: run without compiled graphs: starts in seconds instead of a minute, generates slower on a GPU.
        kv_cache_gib: memory for keys and values, in GiB or with a unit (``800MiB``); null is what
            ``gpu_memory_utilization`` leaves, and 1 GiB on a CPU.
    """

    def __init__(
        self,
        n: int = 10,
        temperature: float = 1.0,
        top_p: float = 0.9,
        max_new_tokens: int = 320,
        batch_tokens: int = 8192,
        gpu_memory_utilization: float = 0.5,
        max_model_len: int | None = None,
        enforce_eager: bool = False,
        kv_cache_gib: GiB | float | None = None,
    ) -> None:
        super().__init__(n, temperature, top_p, max_new_tokens, batch_tokens)
        settings = VLLMSettings(
            gpu_memory_utilization, max_model_len, enforce_eager, None if kv_cache_gib is None else float(kv_cache_gib)
        )
        settings.check("sampler.init_args")
        self.host = VLLMHost(settings, batch_tokens, "sampler.init_args")

    def check(self, backbone: BackboneSettings) -> None:
        """See `Sampler.check`."""
        check_vllm(backbone, "sampler VLLMSampler", "HFSampler")

    def draw(
        self,
        lm: LanguageModel,
        adapter: str | None,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]] | None,
        on_progress: Callable[[int], object],
    ) -> list[list[Draw]]:
        """See `Sampler.draw`.

        Raises:
            MissingPackageError: vLLM is missing.
            VLLMError: vLLM failed or died.
            ValueError: a prompt with its text is too long.
        """
        self.check(lm.settings)
        if not prompts:
            return []
        n = len(seeds[0]) if seeds else 1
        copies = [prompt for prompt in prompts for _ in range(n)]
        flat = [seed for row in seeds for seed in row] if seeds else [None] * len(copies)
        sampling = [self._sampling(lm.chat.stop_ids, seed) for seed in flat]
        count = _PromptCount(n, on_progress)
        texts = self.host.write(lm, adapter, copies, sampling, self.max_new_tokens, count)
        draws = [Draw(ids, cast(Literal["stop", "length"], reason)) for ids, reason in texts]
        return [draws[start : start + n] for start in range(0, len(draws), n)]

    def release(self) -> None:
        """End vLLM's process."""
        self.host.release()

    def _sampling(self, stops: Collection[int], seed: int | None) -> dict[str, Any]:
        """Arguments of ``vllm.SamplingParams``; texts stop at the same tokens as with HFSampler."""
        common = {
            "max_tokens": self.max_new_tokens,
            "stop_token_ids": sorted(stops),
            "ignore_eos": True,
            "detokenize": False,
        }
        if seed is None:
            return {**common, "temperature": 0.0}
        return {**common, "temperature": self.temperature, "top_p": self.top_p, "seed": seed}


class _PromptCount:
    """Converts finished texts to finished prompts: vLLM works on the draws of many prompts at the same time."""

    def __init__(self, n: int, on_progress: Callable[[int], object]) -> None:
        self._n, self._on_progress, self._texts = n, on_progress, 0

    def __call__(self, texts: int) -> None:
        before = self._texts // self._n
        self._texts += texts
        if self._texts // self._n > before:
            self._on_progress(self._texts // self._n - before)
