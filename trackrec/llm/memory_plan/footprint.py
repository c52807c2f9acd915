"""Estimates the memory of a language-model stage from the model's shape, without loading the model.

Weights, adapters, gradients, optimizer state, cache and mask are counted exactly. Activations are estimated: those of
one decoder layer are ``_LIVE`` widths per token, taken from the measured peaks in docs/benchmarks.md.

Letters: D hidden width, I inner width of the feed-forward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from trackrec.llm.logprobs import CHUNK
from trackrec.runtime.errors import SettingError

if TYPE_CHECKING:
    from trackrec.llm.loading import BackboneSettings, LoRASettings

_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
# Bytes of a quantized weight. nf4 with double quantization: half a byte, an 8-bit scale per 64 weights and a float32
# per 256 of those (QLoRA, arXiv 2305.14314, section 3).
_QUANTIZED = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}
_OPTIMIZER = {"adamw": 8, "adamw8bit": 2, "paged_adamw8bit": 2}  # bytes of state per trained weight


class Widths(NamedTuple):
    """Values per token that are in memory at once: multiples of I and of D."""

    inner: float
    hidden: float


# One layer in a forward pass without gradients (False), and one layer with what its backward pass needs (True).
_LIVE = {False: Widths(4.5, 4.0), True: Widths(6.0, 6.6)}
# In float32 a backward pass needs no copies in a narrower type; counted on a CPU (tests/commands/test_plan.py).
_LIVE_FLOAT32 = {False: Widths(4.5, 4.0), True: Widths(5.1, 4.4)}


class ModelShape(NamedTuple):
    """The values of a config.json that determine memory."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool

    @classmethod
    def of(cls, config: Any) -> ModelShape:
        """The shape of a transformers config."""
        text = config.get_text_config()
        heads = text.num_attention_heads
        return cls(
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            inner=text.intermediate_size,
            heads=heads,
            kv_heads=getattr(text, "num_key_value_heads", None) or heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
            vocab=text.vocab_size,
            tied=bool(getattr(text, "tie_word_embeddings", False)),
        )

    def linears(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of the linear layers of one decoder layer."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, query),
            "k_proj": (self.hidden, key),
            "v_proj": (self.hidden, key),
            "o_proj": (query, self.hidden),
            "gate_proj": (self.hidden, self.inner),
            "up_proj": (self.hidden, self.inner),
            "down_proj": (self.inner, self.hidden),
        }


class Work(NamedTuple):
    """One batch of a stage.

    Attributes:
        rows: rows of the batch.
        width: tokens of a row, padding included.
        train: whether gradients are kept.
        packed: whether rows hold trees, whose dense mask is width x width.
        cached: tokens whose keys and values are kept during generation.
    """

    rows: int
    width: int
    train: bool
    packed: bool = False
    cached: int = 0


def adapter_weights(shape: ModelShape, lora: LoRASettings) -> int:
    """Number of weights of one adapter: r (inputs + outputs) for every linear layer that it adapts.

    Raises:
        SettingError: ``target_modules`` is a pattern, which only the loaded model can resolve.
    """
    linears = shape.linears()
    named = lora.target_modules
    if isinstance(named, str) and named != "all-linear":
        raise SettingError(
            f"backbone.lora.target_modules is the pattern {named!r}: give all-linear or a list of names."
        )
    wanted = linears if isinstance(named, str) else {name: linears[name] for name in named if name in linears}
    depth = lora.last_layers or shape.layers
    return depth * lora.r * sum(map(sum, wanted.values()))


def weight_count(shape: ModelShape) -> int:
    """Number of weights of the base: its linear layers and its tables of the vocabulary."""
    linear = shape.layers * sum(inputs * outputs for inputs, outputs in shape.linears().values())
    return linear + shape.vocab * shape.hidden * (1 if shape.tied else 2)


def weight_bytes(shape: ModelShape, settings: BackboneSettings) -> int:
    """Bytes of the frozen base."""
    value_bytes = _BYTES[settings.dtype]
    linear = shape.layers * sum(inputs * outputs for inputs, outputs in shape.linears().values())
    tables = shape.vocab * shape.hidden * (1 if shape.tied else 2)
    return round(linear * _QUANTIZED.get(settings.quantize, value_bytes) + tables * value_bytes)


def stage_bytes(shape: ModelShape, settings: BackboneSettings, optimizer: str, work: Work) -> dict[str, int]:
    """Bytes by purpose, at the peak of one batch.

    Args:
        shape: shape of the model.
        settings: its dtype, quantization and adapters.
        optimizer: name of the stage's optimizer.
        work: the batch.
    """
    value_bytes = _BYTES[settings.dtype]
    tokens = work.rows * work.width
    adapter = adapter_weights(shape, settings.lora)
    live = (_LIVE_FLOAT32 if settings.dtype == "float32" else _LIVE)[work.train]
    layer = round(tokens * value_bytes * (live.inner * shape.inner + live.hidden * shape.hidden))
    kept = 0
    if work.train:
        inputs_only = shape.layers * tokens * shape.hidden * value_bytes
        kept = inputs_only if settings.gradient_checkpointing else shape.layers * layer
    quantized = settings.quantize != "none"
    largest = max(inputs * outputs for inputs, outputs in shape.linears().values())
    dense = work.packed and settings.attention != "flex"
    return {
        "weights": weight_bytes(shape, settings),
        "adapter": adapter * 4,
        "gradients": adapter * 4 if work.train else 0,
        "optimizer": adapter * _OPTIMIZER[optimizer] if work.train else 0,
        "activations": kept + (layer if settings.gradient_checkpointing or not work.train else 0),
        "dequantized": largest * value_bytes if quantized else 0,
        "mask": work.rows * work.width**2 * (value_bytes + 1) if dense else 0,
        "logits": 3 * CHUNK * shape.vocab * 4,
        "cache": work.cached * shape.layers * 2 * shape.kv_heads * shape.head_dim * value_bytes,
    }
