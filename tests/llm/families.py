"""Every causal family of transformers, as a tiny random model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny import build_tokenizer
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

FAMILIES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
# Written into a config where the family has such a key.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "embedding_size", "embed_dim"), 32),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 16),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "depth"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads", "num_heads"), 4),
    **dict.fromkeys(("swa_num_attention_heads", "num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("encoder_layers", "num_key_value_heads", "moe_k", "moe_topk", "num_experts_per_tok"), 2),
    **dict.fromkeys(("swa_num_key_value_heads", "index_n_heads"), 2),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("head_dim", "qk_rope_head_dim", "qk_nope_head_dim", "swa_head_dim", "swa_v_head_dim"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_d_head", "sliding_window", "hidden_size_per_layer_input"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "index_head_dim"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "index_topk"), 512),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "num_kv_shared_layers"), 0),
    **{"attn_logit_softcapping": 0.5, "query_pre_attn_scalar": 1, "final_logit_softcapping": 5.0},
    **dict.fromkeys(("logits_scaling", "lm_head_multiplier"), 2.0),
    **{"moe_num_experts": 4, "encoder_ffn_dim": 48, "encoder_attention_heads": 4, "rotary_dim": 4, "v_head_dim": 12},
    **{"vocab_size_per_layer_input": 600, "initializer_range": 0.1, "logit_scale": 0.5, "is_decoder": True},
    **{"image_size": 28, "patch_size": 14, "n_shared_experts": 1},
}


# Keys that a family may leave open, to be filled in from others.
OPEN = {"head_dim", "num_key_value_heads", "n_routed_experts", "num_experts", "num_experts_per_tok", "n_shared_experts"}
LATENT = {"num_key_value_heads": 4}  # latent attention has as many key heads as query heads
# What a family needs besides; None leaves a key out.
MORE: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "deepseek_v2", "deepseek_v3", "glm4_moe_lite", "longcat_flash", "youtu", "dots1"), LATENT),
    "gpt_neo": {"attention_types": [[["global"], 2]]},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8},
    "minicpm3": LATENT,
}


def tiny_config(kind: Any, more: dict[str, Any]) -> Any:
    """A config of a few thousand weights; those of its parts too."""
    default = kind()
    given = default.to_dict()
    known = {key: value for key, value in SIZES.items() if given.get(key) is not None or (key in OPEN and key in given)}
    for part, part_kind in kind.sub_configs.items():
        if getattr(default, part, None) is not None and hasattr(part_kind, "model_type"):
            known[part] = tiny_config(type(getattr(default, part)), {}).to_dict()
    return kind(**{key: value for key, value in (known | more).items() if value is not None})


def save_family(family: str, directory: Path) -> Path:
    """A model of 2 layers, its weights far from those of an untrained one, and a tokenizer.

    Scales and soft caps that are neutral by default aren't here, and a window is shorter than a prompt.
    """
    tokenizer = build_tokenizer()
    config = tiny_config(CONFIG_MAPPING[family], MORE.get(family, {}))
    config.get_text_config().vocab_size = len(tokenizer)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(config).parameters())
    if size > 4_000_000:
        raise ValueError(f"{size:,} parameters")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
