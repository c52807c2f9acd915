"""Loading a base: which settings and models are refused, and what is taken off the ones that load."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, Lfm2Config, OPTConfig, PhiConfig

from trackrec.llm.backbone import LanguageModel
from trackrec.llm.loading import BackboneSettings, LoRASettings


@pytest.mark.parametrize("key", ["backbone", "validator_backbone", "teacher.init_args.backbone"])
def test_a_model_that_is_nowhere_is_named(tmp_path, key):
    with pytest.raises(ValueError, match=rf"^{key}\.model .*/empty can't be loaded .*or a name on the model hub"):
        LanguageModel(BackboneSettings(model=str(tmp_path / "empty"), dtype="float32", device="cpu"), key)


def test_a_package_that_quantize_needs_is_named(tiny_model_dir, monkeypatch):
    from trackrec.llm import loading
    from trackrec.runtime.packages import MissingPackageError

    def load(*_):
        raise ImportError("Using `bitsandbytes` requires bitsandbytes: `pip install -U bitsandbytes`")

    monkeypatch.setattr(loading, "load_base", load)
    settings = {"model": str(tiny_model_dir), "device": "cpu"}
    with pytest.raises(MissingPackageError, match=r"backbone\.quantize nf4 needs a package: .*pip install"):
        LanguageModel(BackboneSettings(**settings, quantize="nf4"))
    with pytest.raises(ImportError) as found:
        LanguageModel(BackboneSettings(**settings))
    assert not isinstance(found.value, MissingPackageError)


@pytest.mark.parametrize("targets", ["lm_head", ["q_proj", "lm_head"]])
def test_an_adapter_on_the_output_layer_is_refused(targets):
    with pytest.raises(ValueError, match="names lm_head, which is refused"):
        LoRASettings(target_modules=targets)


def test_a_bad_rank_is_named():
    with pytest.raises(ValueError, match=r"backbone\.lora\.r must be at least 1, got 0"):
        LoRASettings(r=0)


def test_a_missing_directory_is_named(tmp_path):
    settings = BackboneSettings(model=str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match=r"validator_backbone\.model: no model .*nothing.*make models"):
        settings.check_path("validator_backbone")
    BackboneSettings(model="Qwen/Qwen2.5-7B-Instruct").check_path()  # a hub name is not a path


def test_published_generation_settings_are_dropped(tiny_models, tiny_lm, tmp_path):
    """A repetition penalty or top_k of the hub's file would change the distribution that S-DPO trains on."""
    import shutil

    where = tmp_path / "model"
    shutil.copytree(tiny_models(), where)
    config = json.loads((where / "generation_config.json").read_text())
    config |= {"repetition_penalty": 1.3, "top_k": 5, "do_sample": True, "temperature": 0.2}
    (where / "generation_config.json").write_text(json.dumps(config))
    lm = tiny_lm(model=str(where))
    assert lm.base.generation_config.repetition_penalty in (None, 1.0)
    assert lm.base.generation_config.top_k != 5
    assert lm.base.generation_config.eos_token_id == lm.chat.eos_id


def test_a_bases_own_dropout_does_not_act(tmp_path):
    """OPT reads its share from an attribute, Phi from `nn.Dropout`; both are published with a tenth."""
    from tiny import build_tokenizer

    for config in (
        OPTConfig(vocab_size=700, hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2),
        PhiConfig(vocab_size=700, hidden_size=16, intermediate_size=16, num_hidden_layers=1, resid_pdrop=0.5),
    ):
        config.num_attention_heads = config.num_key_value_heads = 2
        where = tmp_path / config.model_type
        AutoModelForCausalLM.from_config(config).save_pretrained(where)
        build_tokenizer().save_pretrained(where)
        lm = LanguageModel(BackboneSettings(str(where), dtype="float32", device="cpu"))
        lm.base.train()
        ids = torch.arange(20).unsqueeze(0)
        first, second = (lm.base(input_ids=ids).logits for _ in range(2))
        assert torch.equal(first, second)


def test_layers_without_keys_and_values_are_refused(tmp_path):
    from tiny import build_tokenizer

    config = Lfm2Config(
        vocab_size=700,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        layer_types=["conv", "full_attention"],
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has layers without keys and values \(conv\).* Qwen2.5 or Llama"):
        LanguageModel(BackboneSettings(str(tmp_path), dtype="float32", device="cpu"))


def test_a_model_of_another_build_is_named(tmp_path):
    from tiny import build_tokenizer
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = build_tokenizer()
    size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **size)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a GPT2LMHeadModel doesn't have the layout of Llama models"):
        LanguageModel(BackboneSettings(model=str(tmp_path), device="cpu"))
