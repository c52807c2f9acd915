"""Settings of a language model and its adapters, and loading the model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from trackrec.llm.kernels.attention import NAME, register
from trackrec.llm.memory import MemoryLimitError, ran_out
from trackrec.llm.model_files import check_model_path
from trackrec.runtime.errors import SettingError, reason
from trackrec.runtime.packages import MissingPackageError

if TYPE_CHECKING:
    import torch
    from torch import nn


log = logging.getLogger(__name__)

_Loaded = TypeVar("_Loaded")
_CACHED_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}


@dataclass(frozen=True)
class LoRASettings:
    """The shape of every adapter (PEFT's LoraConfig).

    Attributes:
        r: rank.
        alpha: the update is scaled by alpha / r.
        dropout: on the adapter's input; S-DPO needs 0, since its reference is computed without dropout.
        target_modules: ``all-linear`` or names of linear layers.
        last_layers: only this many of the last decoder layers get the adapter, so that the backward pass stops before
            the earlier ones; null is all.
    """

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"
    last_layers: int | None = None

    def __post_init__(self) -> None:
        for key in ("r", "last_layers"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise SettingError(f"backbone.lora.{key} must be at least 1, got {value}.")
        named = [self.target_modules] if isinstance(self.target_modules, str) else self.target_modules
        if self.last_layers is not None and isinstance(self.target_modules, str) and named != ["all-linear"]:
            raise SettingError(
                f"backbone.lora.target_modules is the pattern {self.target_modules!r}: with backbone.lora.last_layers "
                "give all-linear or a list of names."
            )
        if "lm_head" in named:
            raise SettingError(
                "backbone.lora.target_modules names lm_head, which is refused: log-probabilities are read from the "
                "output layer in chunks, and an adapter there would need all of them at once. Leave it out."
            )


@dataclass(frozen=True)
class BackboneSettings:
    """Which language model to load, and how.

    Attributes:
        model: a name on the model hub or a directory.
        quantize: ``nf4`` (QLoRA) or ``int8`` through bitsandbytes, or ``none``.
        dtype: dtype of the weights that are not quantized, and of the computation.
        lora: shape of the adapters.
        gguf_file: name of a GGUF file inside ``model``; it is dequantized to ``dtype``.
        revision: revision of a hub model.
        attention: attention of packed rows. ``flex`` is FlexAttention on a GPU, compiled at its first use; ``sdpa``
            uses a dense mask, and on a CPU the grouped products of `trackrec.llm.kernels.attention`; ``eager`` is that
            of transformers.
        device: ``auto`` is the GPU if there is one.
        gradient_checkpointing: save memory in training at the cost of time.
        system_prompt: text of the system turn, for generator and validator. null leaves it to the model's chat template
            (Qwen2.5 and SmolLM2 introduce themselves there, about twenty tokens in every prompt); "" is an empty turn.
        chat_template_kwargs: variables of the model's chat template, such as ``enable_thinking``, for generator and
            validator. They are added to ``enable_thinking: false``, which templates without such a switch don't read.
    """

    model: str
    quantize: Literal["none", "nf4", "int8"] = "none"
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    lora: LoRASettings = field(default_factory=LoRASettings)
    gguf_file: str | None = None
    revision: str | None = None
    attention: Literal["sdpa", "flex", "eager"] = "sdpa"
    device: str = "auto"
    gradient_checkpointing: bool = False
    system_prompt: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def check_path(self, key: str = "backbone") -> None:
        """Fail early if ``model`` is clearly a path and holds no model.

        Raises:
            FileNotFoundError: names the key and what to do.
        """
        check_model_path(self.model, key)


def linear_names(layer: nn.Module) -> list[str]:
    """Names of the linear layers inside one decoder layer, before it gets an adapter."""
    from torch import nn

    return sorted({name.split(".")[-1] for name, part in layer.named_modules() if isinstance(part, nn.Linear)})


def lora_config(settings: LoRASettings, linears: Sequence[str], depth: int) -> Any:
    """PEFT's config of an adapter.

    Args:
        settings: shape of the adapter.
        linears: the layers of ``all-linear``; PEFT accepts ``last_layers`` only together with names.
        depth: number of decoder layers of the model.

    Raises:
        SettingError: the model has fewer layers than ``last_layers``.
    """
    from peft import LoraConfig

    targets = settings.target_modules
    layers = None
    if settings.last_layers is not None:
        if settings.last_layers > depth:
            raise SettingError(f"backbone.lora.last_layers is {settings.last_layers}, the model has {depth} layers.")
        layers = list(range(depth - settings.last_layers, depth))
        targets = list(linears) if targets == "all-linear" else targets
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        layers_to_transform=layers,
        task_type="CAUSAL_LM",
    )


def load_or_explain(
    settings: BackboneSettings, dtype: torch.dtype, device: torch.device, key: str = "backbone"
) -> tuple[Any, Any]:
    """`load_base`, with errors that name the config keys; ``key`` is the key of the settings.

    Raises:
        MissingPackageError: bitsandbytes is missing where ``quantize`` asks for it.
        SettingError: the model can't be found, or needs remote code.
        MemoryLimitError: the model doesn't fit into memory.
    """
    return _explained(lambda: load_base(settings, dtype, device, key), settings, str(device), key)


def tokenizer_or_explain(settings: BackboneSettings, key: str = "backbone") -> Any:
    """Only the tokenizer of a model, with errors that name the config keys; see `load_or_explain`."""
    return _explained(lambda: load_tokenizer(settings), settings, "cpu", key)


def _explained(load: Callable[[], _Loaded], settings: BackboneSettings, device: str, key: str) -> _Loaded:
    from safetensors import SafetensorError

    name = f"{key}.model {settings.model}"
    try:
        return load()
    except UnpicklingError:
        text = f"{name} holds a pickle with more than weights, and was not loaded. Choose one with safetensors weights."
        raise SettingError(text) from None
    except SafetensorError as error:
        raise SettingError(f"{name}: its weights are damaged ({reason(error)}). Download it again.") from error
    except ImportError as error:
        if settings.quantize == "none":
            raise
        text = f"{key}.quantize {settings.quantize} needs a package: {reason(error)}"
        raise MissingPackageError(text) from error
    except (RuntimeError, MemoryError, OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            text = f"{name} needs remote code, which trackrec never runs. Choose one that transformers supports."
            raise SettingError(text) from None
        if isinstance(error, OSError) and error.errno is None:  # raised by transformers: no such model
            text = (
                f"{name} can't be loaded ({reason(error)}). Give a directory with a model, or a name on the model hub."
            )
            raise SettingError(text) from error
        if isinstance(error, ValueError):  # an unknown architecture, an invalid tokenizer
            raise SettingError(f"{name} can't be loaded ({reason(error)}). Choose another model.") from error
        if not ran_out(error):
            raise
        text = (
            f"{name} doesn't fit into the memory of {device} ({reason(error)}). Choose a smaller one, or quantize: nf4."
        )
        raise MemoryLimitError(text) from error


def load_base(settings: BackboneSettings, dtype: torch.dtype, device: torch.device, key: str) -> tuple[Any, Any]:
    """The frozen model, and its tokenizer."""
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    model_source, common = _source(settings)
    tokenizer = load_tokenizer(settings)

    def load(attention: str) -> Any:
        return AutoModelForCausalLM.from_pretrained(
            model_source,
            dtype=dtype,
            attn_implementation=attention,
            quantization_config=_quantization(settings, dtype),
            device_map={"": device} if settings.quantize != "none" else None,
            **common,
        )

    try:
        model = load("eager" if settings.attention == "eager" else register())
    except (ValueError, KeyError) as error:  # raised before the weights are read
        if NAME not in str(error) and "does not support an attention implementation" not in str(error):
            raise
        log.warning("%s.model %s has an attention of its own: using it (eager).", key, settings.model)
        model = load("eager")
    _check_cache(model, f"{key}.model {settings.model}")
    if settings.quantize == "none":
        model.to(device)
    for module in model.modules():
        # On AVX512-BF16 CPUs bitsandbytes permanently repacks 4-bit weights at the first inference into a format
        # without gradients (autograd/_functions.py, matmul_4bit).
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    _disable_dropout(model)
    # Published generation settings (a repetition penalty, top_k) would change the distribution that S-DPO trains on.
    model.generation_config = GenerationConfig(
        eos_token_id=model.generation_config.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.requires_grad_(False)
    return model.eval(), tokenizer


def load_tokenizer(settings: BackboneSettings) -> Any:
    """The tokenizer of a model."""
    from transformers import AutoTokenizer

    model_source, common = _source(settings)
    return AutoTokenizer.from_pretrained(model_source, **common)


def _source(settings: BackboneSettings) -> tuple[str, dict[str, Any]]:
    """The model argument of ``from_pretrained``, and its keywords for model and tokenizer."""
    path = Path(settings.model).expanduser()
    common: dict[str, Any] = {"revision": settings.revision, "trust_remote_code": False}
    if settings.gguf_file:
        common["gguf_file"] = settings.gguf_file
    return str(path) if path.exists() else settings.model, common


def _check_cache(model: Any, name: str) -> None:
    config = model.config.get_text_config()
    others = set(getattr(config, "layer_types", None) or ()) - _CACHED_LAYERS
    if others or getattr(model, "_is_stateful", False):
        kinds = ", ".join(sorted(others)) or "state-space layers"
        raise SettingError(
            f"{name} has layers without keys and values ({kinds}), whose cache can't be shared by the draws of a "
            "prompt. Choose a model with attention layers only, such as Qwen2.5 or Llama."
        )


def _disable_dropout(model: nn.Module) -> None:
    """Set dropout of the base to 0: in training it would act on the policy, but not on the reference."""
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def _quantization(settings: BackboneSettings, dtype: torch.dtype) -> Any:
    if settings.quantize == "nf4":
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    if settings.quantize == "int8":
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(load_in_8bit=True)
    if settings.gguf_file:
        from transformers import GgufConfig

        return GgufConfig(dequantize=True)
    return None
