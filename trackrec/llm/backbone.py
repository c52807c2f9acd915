"""One causal language model, quantized or not, that carries several LoRA adapters."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trackrec.llm.chat import ChatEncoder
from trackrec.llm.loading import BackboneSettings, linear_names, load_or_explain, lora_config
from trackrec.llm.packing import Layout, Tree, first_paths, longest_path, pack, tree_tokens, unroll
from trackrec.runtime.errors import MissingFileError, SettingError

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger(__name__)

_WIDTH_MULTIPLE = 8  # rows are padded to a multiple of this
# `check_packing` compares at least this many tokens, or all of a smaller tree: a small error of each then shows.
_COMPARED_TOKENS = 64
# Families whose ``logits_scaling`` multiplies the logits; Granite's divides them.
_MULTIPLYING = ("hyperclovax",)


class LanguageModel:
    """A frozen base model and its adapters; at most one adapter is active at a time.

    Args:
        settings: what to load.
        key: the config key of the settings, for errors.

    Raises:
        MissingPackageError: bitsandbytes is missing where ``quantize`` asks for it.
        SettingError: the model can't be found, or needs remote code.
        MemoryLimitError: the model doesn't fit into memory.
    """

    def __init__(self, settings: BackboneSettings, key: str = "backbone") -> None:
        import torch

        from trackrec.llm.kernels.attention import NAME
        from trackrec.llm.parity import check_forward

        self.settings = settings
        self.dtype = getattr(torch, settings.dtype)
        cuda = torch.cuda.is_available()
        self.device = torch.device(("cuda" if cuda else "cpu") if settings.device == "auto" else settings.device)
        self.base, tokenizer = load_or_explain(settings, self.dtype, self.device, key)
        layers = getattr(self.base.get_decoder(), "layers", None)
        if layers is None:
            raise SettingError(
                f"{key}.model {settings.model}: a {type(self.base).__name__} doesn't have the layout of Llama models "
                "and can't be packed or tuned here. Use a Llama, Qwen, Mistral, Gemma, Phi or similar model."
            )
        self._depth = len(layers)
        self._linear_names = linear_names(layers[-1])
        eos_ids = self.base.generation_config.eos_token_id
        eos_ids = eos_ids if isinstance(eos_ids, list) else [] if eos_ids is None else [eos_ids]
        self.chat = ChatEncoder(tokenizer, eos_ids, settings.system_prompt, key, settings.chat_template_kwargs)
        self._peft: Any = None
        self._packs: bool | None = None
        self._checked = False
        self.shares_prompts = True  # whether its attention reads a prompt that several draws share
        own_attention = self.base.config._attn_implementation != NAME
        self._flex = settings.attention == "flex" and self.device.type == "cuda" and not own_attention
        if settings.gradient_checkpointing:
            self.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        check_forward(self, key)
        log.info(self.describe())

    def quantized_layers(self) -> int:
        """Number of linear layers that really hold 4- or 8-bit weights."""
        # PEFT wraps such a layer in a class of the same name; only the class of bitsandbytes holds the weights.
        kinds = [type(module) for module in self.base.modules() if type(module).__module__.startswith("bitsandbytes")]
        return sum(kind.__name__ in ("Linear4bit", "Linear8bitLt") for kind in kinds)

    def weight_bytes(self) -> int:
        """Bytes of all parameters and buffers, adapters included."""
        tensors = [*self.base.parameters(), *self.base.buffers()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def describe(self) -> str:
        """One line: name, quantized layers, bytes, device."""
        settings = self.settings
        return (
            f"backbone {settings.model}: {settings.quantize} ({self.quantized_layers()} quantized layers), "
            f"{settings.dtype}, {self.weight_bytes() / 2**20:,.0f} MiB on {self.device}"
        )

    @property
    def max_length(self) -> int:
        """The longest row in tokens: the size of the model's position range."""
        return int(getattr(self.base.config, "max_position_embeddings", 1 << 30))

    @property
    def adapters(self) -> list[str]:
        """Names of the loaded adapters."""
        return sorted(self._peft.peft_config) if self._peft is not None else []

    def add_adapter(self, name: str, seed: int) -> None:
        """Add an adapter with PEFT's initial weights, drawn from ``seed``; its update is zero.

        Raises:
            SettingError: ``lora.target_modules`` reaches lm_head.
        """
        import torch
        from peft import get_peft_model

        from trackrec.llm.kernels.fused_lora import fuse

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = lora_config(self.settings.lora, self._linear_names, self._depth)
            if self._peft is None:
                self._peft = get_peft_model(self.base, config, adapter_name=name)
            else:
                self._peft.add_adapter(name, config)
        fuse(self.base)
        if hasattr(self.base.get_output_embeddings(), "lora_A"):
            raise SettingError(
                f"backbone.lora.target_modules {self.settings.lora.target_modules!r} reaches lm_head, which is refused."
            )

    def load_adapter(self, directory: Path, name: str) -> None:
        """Load a saved adapter under ``name``. An adapter of that name that is already loaded is replaced.

        Raises:
            MissingFileError: the directory holds no adapter.
            SettingError: its files are damaged.
        """
        from peft import PeftModel

        from trackrec.llm.kernels.fused_lora import fuse
        from trackrec.storage.parts import check_weights

        if not (directory / "adapter_model.safetensors").exists():
            raise MissingFileError(f"no adapter_model.safetensors in {directory}")
        check_weights(directory / "adapter_model.safetensors")
        self.drop_adapter(name)
        try:
            if self._peft is None:
                self._peft = PeftModel.from_pretrained(self.base, str(directory), adapter_name=name, is_trainable=True)
            else:
                self._peft.load_adapter(str(directory), adapter_name=name, is_trainable=True)
        except (ValueError, TypeError, KeyError) as error:
            raise SettingError(
                f"the adapter in {directory} can't be loaded ({error}). Delete {directory.parent} and run again: the "
                "stage is then repeated."
            ) from error
        fuse(self.base)

    def drop_adapter(self, name: str) -> None:
        """Remove an adapter; without any adapter the plain base remains."""
        if name not in self.adapters:
            return
        if len(self.adapters) == 1:
            self.base = self._peft.unload()
            self._peft = None
        else:
            self._peft.delete_adapter(name)

    def keep_only(self, names: set[str]) -> None:
        """Drop every adapter that is not in ``names``."""
        for name in self.adapters:
            if name not in names:
                self.drop_adapter(name)

    def merge_adapter(self, name: str) -> None:
        """Add an adapter to the weights themselves: the plain base then writes what the adapter wrote, up to rounding.

        Raises:
            SettingError: the weights are quantized, so that the sum would be rounded to 4 or 8 bits.
        """
        if self.settings.quantize != "none":
            raise SettingError(
                f"an adapter can't be merged where backbone.quantize is {self.settings.quantize}: it would be rounded "
                "with the weights. Set backbone.quantize: none."
            )
        self._peft.set_adapter(name, inference_mode=True)
        self.base = self._peft.merge_and_unload()
        self._peft = None

    def save_adapter(self, directory: Path, name: str) -> None:
        """Write ``adapter_model.safetensors`` and ``adapter_config.json``, readable by PEFT."""
        from peft import get_peft_model_state_dict
        from safetensors.torch import save

        from trackrec.storage.atomic import write_atomic

        weights = get_peft_model_state_dict(self._peft, adapter_name=name)
        content = save({key: value.detach().cpu().contiguous() for key, value in weights.items()})
        write_atomic(directory / "adapter_model.safetensors", content)
        config = {**self._peft.peft_config[name].to_dict(), "inference_mode": True}
        config = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
        write_atomic(directory / "adapter_config.json", json.dumps(config, indent=1, sort_keys=True, default=str))

    def train_only(self, name: str) -> list[nn.Parameter]:
        """Activate adapter ``name`` and make its weights the only trainable ones. Build the optimizer after this call.

        Returns:
            The trainable weights.

        Raises:
            RuntimeError: other weights would train too (a change in PEFT).
        """
        self._peft.set_adapter(name)
        trained = {key: value for key, value in self._peft.named_parameters() if value.requires_grad}
        others = [key for key in trained if f".{name}." not in key]
        if others or not trained:
            raise RuntimeError(f"only adapter {name!r} may train, but {others[:3] or 'nothing'} does")
        return list(trained.values())

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """Inference with one adapter, or with the plain base when ``name`` is None."""
        import torch

        was_training = self.base.training
        trained = [parameter for parameter in self.base.parameters() if parameter.requires_grad]
        active = self._peft.active_adapter if self._peft is not None else None
        self.base.eval()
        try:
            mixed = torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)
            with torch.inference_mode(), mixed:
                if self._peft is None:
                    if name is not None:
                        raise KeyError(f"adapter {name!r} is not loaded")
                    yield
                elif name is None:
                    with self._peft.disable_adapter():
                        yield
                else:
                    self._peft.set_adapter(name, inference_mode=True)
                    with self._rounded(name):
                        yield
        finally:
            self.base.train(was_training)
            if active is not None:
                self._peft.set_adapter(active, inference_mode=True)
            for parameter in trained:
                parameter.requires_grad_(True)

    @contextmanager
    def _rounded(self, adapter: str) -> Iterator[None]:
        """Hold an adapter's weights in the model's dtype: autocast would otherwise round them in every product."""
        weights = [value for key, value in self._peft.named_parameters() if f".{adapter}." in key]
        exact = [weight.data for weight in weights]
        try:
            for weight in weights:
                weight.data = weight.data.to(self.dtype)
            yield
        finally:
            for weight, data in zip(weights, exact, strict=True):
                weight.data = data

    def hidden(self, layout: Layout) -> Tensor:
        """Last hidden states (B, T, D) of a layout's rows, without the output layer."""
        import torch

        self._cast_inputs(not torch.is_autocast_enabled(self.device.type))
        flex = self._flex and layout.until is not None
        states: Tensor = self.base.get_decoder()(
            input_ids=torch.from_numpy(layout.ids).to(self.device),
            attention_mask=layout.block_mask(self.device) if flex else layout.attention_mask(self.dtype, self.device),
            position_ids=torch.from_numpy(layout.positions).to(self.device),
            use_cache=False,
        ).last_hidden_state
        return states

    def _cast_inputs(self, wanted: bool) -> None:
        """Set whether PEFT casts the input of LoRA layers to float32, the dtype of their weights.

        Under autocast the cast copies every activation, and the product rounds the copy back: 5 % of the time of a
        step for the same bits. The setting stays after the forward pass, because gradient checkpointing repeats parts
        of it in the backward pass.
        """
        from peft.tuners.lora import LoraLayer

        for layer in self._peft.modules() if self._peft is not None else ():
            if isinstance(layer, LoraLayer):
                layer.cast_input_dtype_enabled = wanted

    def logits(self, hidden: Tensor) -> Tensor:
        """(M, V) float32 logits of (M, D) hidden states, computed in the model's dtype and scaled as the model does."""
        head = self.base.get_output_embeddings()
        return self._scale(head(hidden.to(head.weight.dtype)).float())

    def logits_of(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Logits of chosen tokens, multiplied in float32: in bfloat16 the answers would tie in half of the rows.

        Args:
            hidden: (M, D).
            tokens: (M, L) ids.

        Returns:
            (M, L) float32.
        """
        import torch

        head = self.base.get_output_embeddings()
        with torch.autocast(self.device.type, enabled=False):
            logits = torch.einsum("md,mld->ml", hidden.float(), head.weight[tokens].float())
            if getattr(head, "bias", None) is not None:
                logits = logits + head.bias[tokens].float()
            return self._scale(logits)

    def _scale(self, logits: Tensor) -> Tensor:
        """Apply the scaling that some families (Granite, Cohere, Gemma) have between output layer and softmax."""
        import torch

        config = self.base.config.get_text_config()
        if scale := getattr(config, "logits_scaling", None):
            logits = logits * scale if config.model_type in _MULTIPLYING else logits / scale
        if scale := getattr(config, "logit_scale", None):
            logits = logits * scale
        if cap := getattr(config, "final_logit_softcapping", None):
            logits = torch.tanh(logits / cap) * cap
        return logits

    def can_pack(self) -> bool:
        """Whether one row may hold a tree: every layer must respect the whole 4-D mask.

        Layers with a sliding window silently ignore part of the mask, so such a model gets plain rows.
        """
        if self._packs is None:
            config = self.base.config.get_text_config()
            layers = getattr(config, "layer_types", None) or []
            if layers:
                windowed = any(kind != "full_attention" for kind in layers)
            else:
                windowed = bool(getattr(config, "sliding_window", None)) and getattr(config, "use_sliding_window", True)
            self._packs = not windowed
            if windowed:
                log.warning(
                    "%s has windowed or linear layers: using plain rows without shared prefixes", self.settings.model
                )
        return self._packs

    def check_packing(self, tree: Tree, adapter: str | None) -> None:
        """Compare one tree packed with the same tree in plain rows, once; if they differ, use plain rows from now on.

        Args:
            tree: a tree that shares a prefix; one that doesn't is passed over.
            adapter: the adapter to compare with; None is the plain base.
        """
        n_leaves = len(tree) - len({branch.parent for branch in tree if branch.parent >= 0})
        if self._checked or n_leaves < 2 or not self.can_pack():
            return
        from trackrec.llm.parity import packing_gap, tolerance

        self._checked = True
        # All forty paths of a large tree take time.
        for most in range(2, n_leaves + 1):
            compared = first_paths(tree, most)
            if tree_tokens(compared) - len(compared[0].ids) >= _COMPARED_TOKENS:
                break
        with self.using(adapter):
            gap = packing_gap(self, compared)
        if not gap <= tolerance(self):
            self.dont_pack()
            log.warning(
                "%s computes packed rows differently (by %.3g nats): using plain rows instead", self.settings.model, gap
            )

    def dont_pack(self) -> None:
        """Use plain rows from now on."""
        self._packs = False

    def plain_attention(self) -> bool:
        """Use the model's own eager attention from now on; False if it does already."""
        from trackrec.llm.parity import set_attention

        self._flex = False
        return set_attention(self.base, "eager")

    def layout(self, trees: Sequence[Tree]) -> Layout:
        """Packed rows if a prefix is shared and the model can read them, plain rows otherwise."""
        shares = any(len({branch.parent for branch in tree}) < len(tree) for tree in trees)
        return pack(trees, _WIDTH_MULTIPLE) if shares and self.can_pack() else unroll(trees, _WIDTH_MULTIPLE)

    def check_reach(self, trees: Iterable[Tree], reader: Literal["generator", "validator"]) -> None:
        """Check before a stage starts that every tree fits into the model's position range.

        Args:
            trees: the prompts with their texts.
            reader: whose prompts they are.

        Raises:
            SettingError: a path is too long; names the longest and what to do.
        """
        longest = max(map(longest_path, trees), default=0)
        if longest > self.max_length:
            raise SettingError(
                f"a prompt with its text has {longest} tokens, the model reaches {self.max_length}: "
                f"lower prompts.{reader}.max_history."
            )
