"""What only a GPU can show: its attention kernels, bitsandbytes' kernels, paged optimizers, its random state."""

from __future__ import annotations

import pytest
import torch
from test_packing import every_branch, lora_gradients, random_forest

from trackrec.llm.loading import LoRASettings
from trackrec.llm.logprobs import branch_logprobs
from trackrec.llm.packing import pack, unroll
from trackrec.llm.sampling.hf_sampler import HFSampler
from trackrec.llm.sampling.sampler import draw_seed
from trackrec.llm.training.optimizer import OptimizerSettings

pytestmark = pytest.mark.gpu
WIDE = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.mark.parametrize("attention", ["sdpa", "flex", "eager"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "mistral", "gemma"])
def test_packed_equals_plain_rows_in_float32(tiny_lm, architecture, attention):
    lm = tiny_lm(architecture, device="cuda", attention=attention, adapters=["g"], lora=LoRASettings(r=4))
    forest = random_forest()
    for seed, parameter in enumerate(lm.train_only("g")):
        parameter.data.normal_(std=0.1, generator=torch.Generator("cuda").manual_seed(seed))
    wanted, tokens = every_branch(forest)
    with lm.using("g"):
        packed, plain = (branch_logprobs(lm, lay(forest), wanted, tokens)[0] for lay in (pack, unroll))
    assert plain.std() > 1
    torch.testing.assert_close(packed, plain, rtol=0, atol=1e-3)
    for one, other in zip(*(lora_gradients(lm, lay(forest), forest) for lay in (pack, unroll)), strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm()


@pytest.mark.parametrize("attention", ["sdpa", "flex"])
@pytest.mark.parametrize("quantize", ["none", "nf4", "int8"])
def test_packed_rows_train_in_bfloat16_with_checkpointing(tiny_lm, quantize, attention):
    """Every quantization under every attention: the values of plain rows, gradients for the adapter alone."""
    lm = tiny_lm(
        config=WIDE,
        device="cuda",
        dtype="bfloat16",
        quantize=quantize,
        attention=attention,
        gradient_checkpointing=True,
        adapters=["g"],
        lora=LoRASettings(r=4),
    )
    assert (lm.quantized_layers() > 0) == (quantize != "none")
    forest = random_forest()
    for seed, parameter in enumerate(lm.train_only("g")):
        parameter.data.normal_(std=0.1, generator=torch.Generator("cuda").manual_seed(seed))
    lm.base.train()
    wanted, tokens = every_branch(forest)
    sums = {}
    for lay in (pack, unroll):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            sums[lay], lengths = branch_logprobs(lm, lay(forest), wanted, tokens)
    per_token = (sums[pack] - sums[unroll]).abs() / lengths
    assert per_token.max() < 0.1
    sums[pack].sum().backward()
    moved = [name for name, value in lm.base.named_parameters() if value.grad is not None]
    assert moved
    assert all(".g." in name for name in moved)
    assert all(value.grad.isfinite().all() for value in lm.base.parameters() if value.grad is not None)


def test_draws_share_their_prompt_and_follow_their_seeds(tiny_lm):
    """The shared cache (sdpa) and the repeated one (eager) write the same texts, and a seed fixes a draw."""
    prompts = [[5, 6, 7, 8], [9, 10, 11], [12] * 9]
    seeds = [[draw_seed(1, 1, f"h{row}", draw) for draw in range(4)] for row in range(3)]
    sampler = HFSampler(n=4, max_new_tokens=12, batch_tokens=10_000)
    found = []
    for attention in ("sdpa", "sdpa", "eager"):
        lm = tiny_lm(device="cuda", attention=attention)
        found.append(sampler.draw(lm, None, prompts, seeds, lambda _: None))
    assert found[0] == found[1] == found[2]
    assert len({tuple(draw.token_ids) for draws in found[0] for draw in draws}) > 6


@pytest.mark.parametrize("name", ["adamw8bit", "paged_adamw8bit"])
def test_the_8_bit_optimizers_step(tiny_lm, name):
    lm = tiny_lm(device="cuda", adapters=["g"], lora=LoRASettings(r=64))
    forest, parameters = random_forest(), lm.train_only("g")
    wanted, tokens = every_branch(forest)
    optimizer = OptimizerSettings(name=name).build(parameters, lr=1e-2)
    assert type(optimizer).__module__.startswith("bitsandbytes")
    losses = []
    for _ in range(5):
        sums, _lengths = branch_logprobs(lm, pack(forest), wanted, tokens)
        losses.append(-sums.mean().item())
        (-sums.mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
