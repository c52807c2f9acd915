"""The base and its adapters: what trains, what is saved, what is in force."""

from __future__ import annotations

import json
import math

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from trackrec.llm.backbone import LanguageModel
from trackrec.llm.loading import LoRASettings
from trackrec.llm.logprobs import branch_logprobs
from trackrec.llm.packing import Branch

SMALL = LoRASettings(r=4, alpha=8)
TREE = [Branch([402, 31, 77, 290]), Branch([12, 13, 14], 0), Branch([200, 7], 0)]
WANTED, TOKENS = [(0, 1), (0, 2)], [[12, 13, 14], [200, 7]]


def says(lm: LanguageModel, adapter: str | None) -> list[float]:
    with lm.using(adapter):
        return branch_logprobs(lm, lm.layout([TREE]), WANTED, TOKENS)[0].tolist()


def shake(lm: LanguageModel, adapter: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in lm.train_only(adapter):
        parameter.data.normal_(std=0.1, generator=generator)


def train_step(lm: LanguageModel, adapter: str, lr: float = 1e-2) -> float:
    optimizer = torch.optim.AdamW(lm.train_only(adapter), lr=lr)
    loss = -branch_logprobs(lm, lm.layout([TREE]), WANTED, TOKENS)[0].mean()
    loss.backward()
    optimizer.step()
    return loss.item()


def weights(lm: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in lm.base.named_parameters()}


# -- QLoRA --------------------------------------------------------------------------------------------------------


@pytest.fixture
def nf4(tiny_lm) -> LanguageModel:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 32}
    return tiny_lm(config=sizes, adapters=["g"], quantize="nf4", lora=SMALL)


def test_nf4_really_quantizes_every_linear_layer_but_the_head(nf4):
    assert nf4.quantized_layers() == 14
    assert nf4.describe().startswith(f"backbone {nf4.settings.model}: nf4 (14 quantized layers), float32, ")
    packed = [p for p in nf4.base.parameters() if p.dtype == torch.uint8]
    assert len(packed) == 14
    assert nf4.base.get_output_embeddings().weight.dtype == torch.float32


def test_a_qlora_step_changes_the_adapter_and_nothing_of_the_base(nf4):
    shake(nf4, "g", 0)
    before = weights(nf4)
    first = train_step(nf4, "g")
    after = weights(nf4)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if "lora_" in name}
    assert len(moved) == 28
    assert math.isfinite(first)
    assert -sum(says(nf4, "g")) / 2 < first


def test_scoring_between_steps_leaves_a_quantized_base_trainable(nf4):
    """bitsandbytes repacks 4-bit weights for AVX512-BF16 CPUs at the first inference; no gradient passes them then."""
    shake(nf4, "g", 0)

    def gradients() -> list[torch.Tensor]:
        nf4.base.train()
        parameters = nf4.train_only("g")
        sums, _ = branch_logprobs(nf4, nf4.layout([TREE]), WANTED, TOKENS)
        return torch.autograd.grad(sums.sum(), parameters)

    before = gradients()
    says(nf4, "g")
    for one, other in zip(before, gradients(), strict=True):
        assert (one - other).norm() <= 0.05 * one.norm()


def test_packed_rows_on_a_quantized_base(nf4):
    together = says(nf4, None)
    with nf4.using(None):
        alone = [branch_logprobs(nf4, nf4.layout([[TREE[0], b]]), [(0, 1)], [b.ids])[0].item() for b in TREE[1:]]
    assert together == pytest.approx(alone, abs=1e-4)


# -- adapters -----------------------------------------------------------------------------------------------------


def test_describe_of_a_plain_base(tiny_lm):
    lm = tiny_lm()
    assert lm.quantized_layers() == 0
    count = sum(tensor.numel() for tensor in [*lm.base.parameters(), *lm.base.buffers()])
    assert lm.weight_bytes() == 4 * count
    assert lm.describe().endswith(f"none (0 quantized layers), float32, {4 * count / 2**20:,.0f} MiB on cpu")


def test_nothing_of_a_loaded_base_trains(tiny_lm):
    lm = tiny_lm()
    assert not any(parameter.requires_grad for parameter in lm.base.parameters())
    assert lm.adapters == []
    assert lm.max_length == 2048


def test_a_new_adapter_changes_nothing(tiny_lm):
    lm = tiny_lm(lora=SMALL)
    plain = says(lm, None)
    lm.add_adapter("g", 0)
    assert says(lm, "g") == plain


def test_adapter_weights_are_a_function_of_the_seed(tiny_lm):
    lm = tiny_lm(lora=SMALL)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        lm.add_adapter(name, seed)
    assert torch.equal(torch.get_rng_state(), before)  # the run's own random numbers are left alone
    found = {name: [p.detach().clone() for p in lm.train_only(name)] for name in lm.adapters}
    assert all(torch.equal(x, y) for x, y in zip(found["one"], found["same"], strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(found["one"], found["other"], strict=True))


def test_an_adapter_is_saved_and_loaded_to_the_bit(tiny_lm, tmp_path):
    lm = tiny_lm(lora=SMALL, adapters=["g"])
    shake(lm, "g", 0)
    due = says(lm, "g")
    lm.save_adapter(tmp_path, "g")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    later = tiny_lm(lora=SMALL)
    later.load_adapter(tmp_path, "first")
    later.load_adapter(tmp_path, "second")
    assert says(later, "first") == says(later, "second") == due
    assert due != says(later, None)


def test_a_saved_adapter_is_a_peft_adapter(tiny_lm, tmp_path, tiny_model_dir):
    """Read by PEFT alone: no room of this package is needed to use what it published."""
    lm = tiny_lm(lora=SMALL, adapters=["g"])
    shake(lm, "g", 0)
    lm.save_adapter(tmp_path, "g")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["inference_mode"]) == (4, 8, True)
    assert len(load_file(tmp_path / "adapter_model.safetensors")) == 28
    ids = torch.tensor([[402, 31, 77, 290]])
    with lm.using("g"):
        due = lm.base(input_ids=ids).logits
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    with torch.no_grad():
        found = PeftModel.from_pretrained(base, tmp_path).eval()(input_ids=ids).logits
    torch.testing.assert_close(found, due, rtol=0, atol=1e-6)


def test_loading_under_a_used_name_replaces_the_adapter(tiny_lm, tmp_path):
    lm = tiny_lm(lora=SMALL, adapters=["g"])
    shake(lm, "g", 0)
    lm.save_adapter(tmp_path, "g")
    due = says(lm, "g")
    shake(lm, "g", 1)
    assert says(lm, "g") != due
    lm.load_adapter(tmp_path, "g")
    assert lm.adapters == ["g"]
    assert says(lm, "g") == due
    assert math.isfinite(train_step(lm, "g"))  # and it still trains


def test_two_adapters_are_independent(tiny_lm):
    lm = tiny_lm(lora=SMALL, adapters=["g", "v"])
    shake(lm, "g", 0)
    shake(lm, "v", 1)
    base, g, v = says(lm, None), says(lm, "g"), says(lm, "v")
    assert len({tuple(base), tuple(g), tuple(v)}) == 3
    train_step(lm, "g")
    assert says(lm, "v") == v
    assert says(lm, None) == base
    assert says(lm, "g") != g


def test_no_adapter_is_the_plain_base(tiny_lm):
    due = says(tiny_lm(), None)
    lm = tiny_lm(lora=SMALL, adapters=["g", "v"])
    shake(lm, "g", 0)
    assert says(lm, None) == due
    lm.keep_only({"v"})
    assert lm.adapters == ["v"]
    lm.drop_adapter("v")
    lm.drop_adapter("never there")
    assert lm.adapters == []
    assert says(lm, None) == due
    assert not any("lora" in name for name, _ in lm.base.named_parameters())


def test_using_gives_the_mode_back_even_after_an_error(tiny_lm):
    lm = tiny_lm(lora=SMALL, adapters=["g"])
    lm.base.train()

    def fail_inside() -> None:
        with lm.using("g"):
            assert not lm.base.training
            assert torch.is_inference_mode_enabled()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert lm.base.training
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("name", [None, "g", "v"])
def test_using_leaves_what_trains_as_it_was(tiny_lm, name):
    """A monitor that writes a text between two steps must not freeze the adapter that trains."""
    lm = tiny_lm(lora=SMALL, adapters=["g", "v"])
    trained = lm.train_only("g")
    says(lm, name)
    assert all(parameter.requires_grad for parameter in trained)
    assert sum(parameter.requires_grad for parameter in lm.base.parameters()) == len(trained)
    branch_logprobs(lm, lm.layout([TREE]), WANTED, TOKENS)[0].sum().backward()
    assert any(parameter.grad is not None for parameter in trained)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_autocast_makes_no_float32_copy_of_what_lora_reads_and_changes_no_bit(tiny_lm, monkeypatch, checkpointing):
    """bfloat16 base, float32 adapter: the gradients of PEFT's casts without them, where PEFT computes the layers."""
    monkeypatch.setattr("trackrec.llm.kernels.fused_lora.fuse", lambda model: None)
    lm = tiny_lm(dtype="bfloat16", adapters=["g"], lora=SMALL, gradient_checkpointing=checkpointing)
    shake(lm, "g", seed=3)
    parameters = lm.train_only("g")

    def gradients() -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (-branch_logprobs(lm, lm.layout([TREE]), WANTED, TOKENS)[0].sum()).backward()
        found = torch.cat([parameter.grad.flatten() for parameter in parameters])
        for parameter in parameters:
            parameter.grad = None
        return found

    def casts() -> set[bool]:
        return {layer.cast_input_dtype_enabled for layer in lm.base.modules() if isinstance(layer, LoraLayer)}

    ours = gradients()
    assert casts() == {False}
    with monkeypatch.context() as patch:
        patch.setattr(lm, "_cast_inputs", lambda wanted: LanguageModel._cast_inputs(lm, True))
        assert torch.equal(ours, gradients())
        assert casts() == {True}
    train_step(lm, "g")  # without autocast the casts are needed
    assert casts() == {True}


@pytest.mark.parametrize("adapters", [[], ["g"]])
def test_an_adapter_that_is_not_loaded_is_an_error(tiny_lm, adapters):
    lm = tiny_lm(lora=SMALL, adapters=adapters)
    with pytest.raises((KeyError, ValueError), match="nobody"), lm.using("nobody"):
        pass


def test_train_only_trains_one_adapter_and_says_when_more_would(tiny_lm):
    lm = tiny_lm(lora=SMALL, adapters=["g", "v"])
    for name in ("g", "v", "g"):
        parameters = lm.train_only(name)
        assert len(parameters) == 28
        assert {id(p) for p in parameters} == {id(p) for p in lm.base.parameters() if p.requires_grad}
    lm.base.get_input_embeddings().weight.requires_grad_(True)
    with pytest.raises(RuntimeError, match=r"only adapter 'g' may train, but .*embed_tokens"):
        lm.train_only("g")


def test_an_adapter_on_the_output_layer_is_refused_behind_a_pattern(tiny_lm):
    """PEFT reads a text as a regular expression: ``.*(q_proj|lm_head)`` reaches the output layer too."""
    with pytest.raises(ValueError, match="lm_head"):
        tiny_lm(lora=LoRASettings(r=2, target_modules=".*(q_proj|lm_head)"), adapters=["g"])


def test_only_the_last_layers_carry_the_adapter_on_request(tiny_lm):
    lm = tiny_lm(lora=LoRASettings(r=2, last_layers=1))
    lm.add_adapter("g", seed=0)
    depth = lm.base.config.num_hidden_layers
    names = [name for name, parameter in lm.base.named_parameters() if parameter.requires_grad]
    assert depth > 1
    assert names
    assert all(f"layers.{depth - 1}." in name for name in names)


@pytest.mark.parametrize(("layers", "message"), [(0, "must be at least 1, got 0"), (99, "is 99, the model has 2")])
def test_a_bad_number_of_layers_is_named(tiny_lm, layers, message):
    with pytest.raises(ValueError, match=rf"backbone\.lora\.last_layers {message}"):
        tiny_lm(lora=LoRASettings(last_layers=layers)).add_adapter("g", seed=0)


def test_a_missing_adapter_is_named_and_keeps_the_old_one(tiny_lm, tmp_path):
    lm = tiny_lm(lora=SMALL, adapters=["g"])
    with pytest.raises(FileNotFoundError, match=r"no adapter_model\.safetensors in"):
        lm.load_adapter(tmp_path, "g")
    assert lm.adapters == ["g"]
