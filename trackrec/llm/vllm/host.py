"""Keeps a vLLM process for one language model, and the adapters saved for it."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackrec.llm.vllm.process import VLLMProcess, VLLMSettings, engine_arguments
from trackrec.runtime.errors import SettingError

if TYPE_CHECKING:
    from trackrec.llm.backbone import LanguageModel

_LENGTH_MULTIPLE = 1024  # context lengths are rounded up to a multiple of this, so that restarts are rare


class VLLMHost:
    """Starts vLLM at the first request, restarts it when the engine arguments change, and ends it.

    The language model stays in memory, so on a GPU both must fit: vLLM takes its share
    (`VLLMSettings.gpu_memory_utilization`) next to it.

    Args:
        settings: memory and length limits of vLLM.
        step_tokens: most tokens that vLLM computes at once.
        keys: config prefix of the settings, for messages.
        overrides: further arguments of ``vllm.LLM``.
    """

    def __init__(
        self, settings: VLLMSettings, step_tokens: int, keys: str, overrides: dict[str, Any] | None = None
    ) -> None:
        self.settings, self.step_tokens, self.keys = settings, step_tokens, keys
        self._overrides = overrides or {}
        self._process: VLLMProcess | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._known: dict[str, tuple[str, int, str]] = {}

    @property
    def pid(self) -> int | None:
        """Process id while vLLM runs, else None."""
        return None if self._process is None or self._process.closed else self._process.pid

    def write(
        self,
        lm: LanguageModel,
        adapter: str | None,
        prompts: Sequence[Sequence[int]],
        sampling: Sequence[dict[str, Any]],
        max_new_tokens: int,
        on_progress: Callable[[int], object],
    ) -> list[tuple[list[int], str]]:
        """One text per prompt, see `VLLMProcess.write`."""
        saved = self._save(lm, adapter)
        return self._started(lm, saved, prompts, max_new_tokens).write(prompts, sampling, saved, on_progress)

    def score(
        self,
        lm: LanguageModel,
        adapter: str | None,
        prompts: Sequence[Sequence[int]],
        tokens: Sequence[int],
        on_progress: Callable[[int], object],
    ) -> list[list[float]]:
        """Log-probabilities of ``tokens`` after each prompt."""
        saved = self._save(lm, adapter)
        return self._started(lm, saved, prompts, 1).score(prompts, tokens, saved, on_progress)

    def release(self) -> None:
        """End the process; its memory is free when this returns. The next request starts a new one."""
        self._end()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
            self._known.clear()

    def _end(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None

    def _save(self, lm: LanguageModel, name: str | None) -> tuple[str, int, str] | None:
        """Save an adapter's current weights under a name and number that no other weights had in this process.

        vLLM keeps serving the cached weights of a name after they changed:
        https://github.com/vllm-project/vllm/issues/42125
        """
        if name is None:
            return None
        if name not in lm.adapters:
            raise KeyError(f"adapter {name!r} is not loaded")
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="trackrec-adapters-")
        directory = Path(self._folder.name) / "new"
        lm.save_adapter(directory, name)
        digest = hashlib.sha256((directory / "adapter_config.json").read_bytes())
        digest.update((directory / "adapter_model.safetensors").read_bytes())
        key = digest.hexdigest()[:16]
        if key not in self._known:
            kept = directory.rename(directory.with_name(key))
            self._known[key] = (key, len(self._known) + 1, str(kept))
        return self._known[key]

    def _started(
        self,
        lm: LanguageModel,
        adapter: tuple[str, int, str] | None,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
    ) -> VLLMProcess:
        """The running process, restarted if it can't serve this model, adapter rank or length."""
        import torch

        rank = 0
        if adapter is not None:
            rank = int(json.loads((Path(adapter[2]) / "adapter_config.json").read_text())["r"])
        if self._process is not None and self._process.closed:
            self._process = None
        length = self._length(lm, max(map(len, prompts), default=0) + max_new_tokens)
        if self._process is not None:
            # Keep the current limits if they are larger, so that no restart is needed.
            length = max(length, self._process.arguments["max_model_len"])
            rank = max(rank, self._process.arguments.get("max_lora_rank", 0))
        cpu = lm.device.type == "cpu"
        wanted = engine_arguments(lm.settings, self.settings, length, self.step_tokens, rank, cpu) | self._overrides
        if self._process is None or self._process.arguments != wanted:
            self._end()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # vLLM needs its share of the GPU to be free
            self._process = VLLMProcess(wanted, lm.device)
        return self._process

    def _length(self, lm: LanguageModel, needed: int) -> int:
        """The context length to start vLLM with: at least ``needed`` tokens.

        Raises:
            SettingError: ``needed`` exceeds the model's positions or the configured limit.
        """
        limit = self.settings.max_model_len
        reach = lm.max_length if limit is None else min(limit, lm.max_length)
        if needed > reach:
            what = "the model reaches" if reach == lm.max_length else f"{self.keys}.max_model_len is"
            raise SettingError(
                f"a prompt with its new tokens has {needed} tokens, {what} {reach}: "
                "lower prompts.generator.max_history or sampler.init_args.max_new_tokens."
            )
        return reach if limit is not None else min(-(-needed // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE, reach)
