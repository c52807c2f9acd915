"""A vLLM process kept for one language model, and the adapters that it was given."""

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

_LENGTHS = 1024


class VLLMHost:
    """Starts vLLM at the first need, starts it anew where the model or the length changes, and ends it.

    The language model itself stays where it is, so on a GPU both must fit: vLLM takes its own share
    (`VLLMSettings.gpu_memory_utilization`) of what is left.

    Args:
        settings: how much vLLM may take.
        step_tokens: most tokens that it computes at once.
        keys: where the settings stand in the config, for messages.
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
        """Number of the process, while there is one."""
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
        given = self._give(lm, adapter)
        return self._started(lm, given, prompts, max_new_tokens).write(prompts, sampling, given, on_progress)

    def score(
        self,
        lm: LanguageModel,
        adapter: str | None,
        prompts: Sequence[Sequence[int]],
        tokens: Sequence[int],
        on_progress: Callable[[int], object],
    ) -> list[list[float]]:
        """Log-probabilities of ``tokens`` after each prompt."""
        given = self._give(lm, adapter)
        return self._started(lm, given, prompts, 1).score(prompts, tokens, given, on_progress)

    def release(self) -> None:
        """End the process: its memory is back when this returns. The next request starts another."""
        self._end()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
            self._known.clear()

    def _end(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None

    def _give(self, lm: LanguageModel, name: str | None) -> tuple[str, int, str] | None:
        """The adapter as it is now, under a name and number that no other weights had in this process.

        vLLM keeps serving what it cached under a name whose weights changed:
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
        """A process that serves this model, this kind of adapter and these lengths."""
        rank = 0
        if adapter is not None:
            rank = int(json.loads((Path(adapter[2]) / "adapter_config.json").read_text())["r"])
        if self._process is not None and self._process.closed:
            self._process = None
        length = self._length(lm, max(map(len, prompts), default=0) + max_new_tokens)
        if self._process is not None:
            # What it can do already, it need not be started anew for.
            length = max(length, self._process.arguments["max_model_len"])
            rank = max(rank, self._process.arguments.get("max_lora_rank", 0))
        cpu = lm.device.type == "cpu"
        wanted = engine_arguments(lm.settings, self.settings, length, self.step_tokens, rank, cpu) | self._overrides
        if self._process is None or self._process.arguments != wanted:
            self._end()
            _empty_cache()
            self._process = VLLMProcess(wanted, lm.device)
        return self._process

    def _length(self, lm: LanguageModel, needed: int) -> int:
        """Longest prompt with its text that vLLM must be ready for.

        Raises:
            SettingError: the model, or the configured limit, doesn't reach that far.
        """
        limit = self.settings.max_model_len
        reach = lm.max_length if limit is None else min(limit, lm.max_length)
        if needed > reach:
            what = "the model reaches" if reach == lm.max_length else f"{self.keys}.max_model_len is"
            raise SettingError(
                f"a prompt with its new tokens has {needed} tokens, {what} {reach}: "
                "lower prompts.max_history or sampler.init_args.max_new_tokens."
            )
        return reach if limit is not None else min(-(-needed // _LENGTHS) * _LENGTHS, reach)


def _empty_cache() -> None:
    """On a GPU, hand back what this process has reserved and doesn't use: vLLM wants its share free."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
