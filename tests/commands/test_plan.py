"""The memory plan: exact where tensors are counted, near the measured peaks where they are estimated."""

from __future__ import annotations

import json
import re
import sys

import pytest
import torch
from transformers import AutoConfig, DynamicCache

from trackrec.cli.app import run_cli
from trackrec.commands.plan import parse_memory, written_shape
from trackrec.llm.loading import BackboneSettings, LoRASettings
from trackrec.llm.logprobs import branch_logprobs
from trackrec.llm.memory_plan.footprint import ModelShape, Work, adapter_weights, stage_bytes, weight_bytes
from trackrec.llm.packing import Branch

QWEN_7B = ModelShape(28, 3584, 18944, 28, 4, 128, 152064, False)
NF4 = BackboneSettings("m", quantize="nf4", lora=LoRASettings(r=16, alpha=32), gradient_checkpointing=True)
# docs/benchmarks.md, scripts/bench_gpu.py on an H100: the peak of each stage in GiB.
MEASURED = {
    "distill": (8.84, Work(8, 920, True)),
    "score": (8.40, Work(3, 5400, False, True)),
    "reference": (6.18, Work(1, 3800, False, True)),
    "align": (7.26, Work(1, 3800, True, True)),
    "rec_tune": (7.49, Work(4, 1080, True, True)),
}


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "mistral"])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]])
def test_weights_adapters_and_cache_are_counted_exactly(tiny_lm, architecture, targets):
    lora = LoRASettings(r=4, target_modules=targets, last_layers=1)
    lm = tiny_lm(architecture, lora=lora)
    shape = ModelShape.of(lm.base.config)
    linear_or_table = [value for value in lm.base.parameters() if value.dim() == 2]
    due = sum(value.numel() * value.element_size() for value in linear_or_table)
    assert weight_bytes(shape, lm.settings) == due
    lm.add_adapter("g", seed=0)
    adapter = adapter_weights(shape, lora)
    assert adapter == sum(value.numel() for value in lm.train_only("g"))
    filled = DynamicCache(config=lm.base.config)
    with lm.using("g"):
        ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
        lm.base.get_decoder()(input_ids=ids, past_key_values=filled, use_cache=True)
    held = sum(2 * layer.keys.numel() * layer.keys.element_size() for layer in filled.layers)
    parts = stage_bytes(shape, lm.settings, "adamw", Work(2, 3, False, cached=6))
    assert parts["cache"] == held
    assert parts["gradients"] == parts["optimizer"] == 0
    assert stage_bytes(shape, lm.settings, "adamw", Work(2, 3, True))["optimizer"] == 8 * adapter


@pytest.mark.parametrize("stage", MEASURED)
def test_the_plan_is_within_15_percent_of_the_measured_peaks(stage):
    peak, work = MEASURED[stage]
    planned = sum(stage_bytes(QWEN_7B, NF4, "paged_adamw8bit", work).values()) / 2**30
    assert planned == pytest.approx(peak, rel=0.15)
    assert planned > peak  # on the safe side


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    ("hidden", "inner", "heads", "kv_heads"), [(576, 1536, 9, 3), (256, 640, 8, 2), (512, 2048, 8, 8)]
)
def test_kept_activations_are_within_15_percent_of_what_autograd_keeps(
    tiny_lm, monkeypatch, dtype, hidden, inner, heads, kv_heads
):
    """Every tensor that a training step on a CPU saves for its backward pass, the weights left out."""
    narrow = {"hidden_size": hidden, "intermediate_size": inner, "num_attention_heads": heads}
    lm = tiny_lm("llama", dtype=dtype, config={**narrow, "num_key_value_heads": kv_heads, "head_dim": hidden // heads})
    lm.add_adapter("g", seed=0)
    lm.train_only("g")
    lm.base.train()
    trees = [[Branch([5 + place % 40 for place in range(180)]), Branch([7, 8, 9] * 4, 0)]] * 4
    layout = lm.layout(trees)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    mixed = torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), mixed:
        branch_logprobs(lm, layout, [(row, 1) for row in range(4)], [list(tree[1].ids) for tree in trees])
    weights = {value.untyped_storage().data_ptr() for value in lm.base.parameters()}
    counted = sum(size for place, size in kept.items() if place not in weights)
    rows, width = layout.ids.shape
    planned = stage_bytes(ModelShape.of(lm.base.config), lm.settings, "adamw", Work(rows, width, True))["activations"]
    assert planned == pytest.approx(counted, rel=0.15)


@pytest.mark.parametrize(
    ("text", "size"), [("24GiB", 24 * 2**30), ("16 gb", 16 * 10**9), ("1.5GiB", 3 * 2**29), ("800MiB", 800 * 2**20)]
)
def test_sizes(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["24", "GiB", "-3GiB", "0GiB", "24 apples"])
def test_other_sizes_are_refused(text):
    with pytest.raises(ValueError, match="--gpu must be a size such as 24GiB"):
        parse_memory(text)


@pytest.mark.recipe
def test_texts_for_many_users_cost_tokens_over_rates(monkeypatch, capfd):
    """A million users, 600 prompt tokens and 192 new ones: at 54,000 and 12,500 tokens/s 26.5 ms each, 7.4 hours."""
    monkeypatch.setattr(sys, "argv", ["trackrec"])
    words = ["plan", "--config", "configs/movielens.yaml", "--gpu", "h100", "--prompt_tokens", "600"]
    run_cli([*words, "--users", "1e6", "--count", "4", "--changed", "0.5"])
    out = capfd.readouterr().out
    new = int(re.search(r"600 prompt and (\d+) new tokens", out)[1])
    weights = 28 * (3584 * (3584 + 2 * 512) + 3584 * 3584 + 3 * 3584 * 18944) + 2 * 152064 * 3584
    hours = 0.5e6 * (600 / 54_000 + new / 12_500) * weights / 7.6e9 / 3600
    assert f"VLLMSampler, bf16  {hours:,.1f} GPU-hours, {hours / 4:,.1f} hours with 4 H100; rates assumed" in out
    assert re.search(r"HFSampler, nf4 .*rates measured \(scripts/bench_gpu.py", out)
    run_cli([*words, "--users", "1e6", "--backbone.model", "Qwen/Qwen2.5-1.5B-Instruct"])
    assert "rates measured" not in capfd.readouterr().out  # scaled from another size


@pytest.mark.recipe
@pytest.mark.parametrize(
    ("args", "text"),
    [
        (
            ["--users", "1e6", "--gpu", "24GiB"],
            "--users needs --gpu with a name whose rates are known: H100; got '24GiB'",
        ),
        (["--users", "0", "--gpu", "H100"], "--users must be above 0, got 0"),
        (["--users", "5", "--gpu", "H100", "--changed", "2"], "--changed must be above 0 and at most 1, got 2"),
    ],
)
def test_costs_that_can_not_be_told_name_the_flag(monkeypatch, capfd, args, text):
    monkeypatch.setattr(sys, "argv", ["trackrec"])
    with pytest.raises(SystemExit):
        run_cli(["plan", "--config", "configs/movielens.yaml", *args])
    assert text in capfd.readouterr().err


@pytest.mark.recipe
def test_the_command_says_what_fits_and_which_key_to_turn(monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["trackrec"])
    run_cli(["plan", "--config", "configs/movielens.yaml", "--gpu", "24GiB"])
    lines = capfd.readouterr().out.splitlines()
    stages = [line for line in lines if line.split()[0] in ("distill", "sample", "score", "align", "rec_tune")]
    assert len(stages) == 5
    assert all("fits" in line for line in stages)
    run_cli(["plan", "--config", "configs/movielens.yaml", "--gpu", "8GiB", "--prompt_tokens", "600"])
    lines = capfd.readouterr().out.splitlines()
    assert "prompt of 600 tokens," in lines[0]
    assert any("over: lower scoring.batch_tokens" in line for line in lines)


@pytest.mark.recipe
def test_the_command_says_what_v_saves_where_it_reads_less_than_g(monkeypatch, capfd):
    """90 tokens to ask, 18 for an item with attributes: 100 items, 10 for counts and 5 for each of six kinds.

    V reads ten items, and the teacher's 120 words at 1.6 tokens.
    """
    monkeypatch.setattr(sys, "argv", ["trackrec"])
    run_cli(["plan", "--config", "configs/movielens.yaml"])
    (line,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("V reads")]
    assert line == "V reads about 462 tokens a history with the text, 1930 with the history that G reads (24%)."
    alike = ["--prompts.generator", '{"max_history": 10, "history_counts": false, "history_kinds": 0}']
    run_cli(["plan", "--config", "configs/movielens.yaml", *alike])
    assert "V reads" not in capfd.readouterr().out


@pytest.mark.recipe
def test_a_v_that_reads_the_whole_history_needs_the_memory_for_it(monkeypatch, capfd):
    """The V of the comparison ``whole`` is tuned on G's prompt of 9,000 tokens, the V of the loop on ten titles."""
    monkeypatch.setattr(sys, "argv", ["trackrec"])
    apart = ["--prompts.validator.max_history", "10", "--prompt_tokens", "9000"]
    tuned = {}
    for comparisons in ("null", "[facts]"):
        run_cli(["plan", "--config", "configs/movielens.yaml", *apart, "--loop.comparisons", comparisons])
        (line,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("rec_tune ")]
        tuned[comparisons] = float(line.split()[-1])
    assert tuned["null"] > 2 * tuned["[facts]"]


@pytest.mark.recipe
def test_the_stage_in_which_v_scores_the_rows_of_the_nets_is_planned(monkeypatch, capfd):
    """16 targets share a prompt; with ``score_rows: 1`` three do, one of each split, and the row is shorter."""
    monkeypatch.setattr(sys, "argv", ["trackrec"])
    found = {}
    for rows in ("null", "1"):
        asked = ["--ctr.text.use", "log_odds", "--ctr.text.score_rows", rows, "--scoring.batch_tokens", "1"]
        run_cli(["plan", "--config", "configs/movielens.yaml", "--gpu", "24GiB", "--prompt_tokens", "600", *asked])
        lines = capfd.readouterr().out.splitlines()
        (found[rows],) = (line for line in lines if line.startswith("log_odds "))
    assert "fits" in found["null"]
    activations = {rows: float(line.split()[4]) for rows, line in found.items()}
    assert activations["1"] < activations["null"]
    run_cli(["plan", "--config", "configs/movielens.yaml", "--gpu", "1GiB"])
    lines = capfd.readouterr().out.splitlines()
    assert not [line for line in lines if line.startswith("log_odds")]


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("head_dim", [None, 32])
def test_a_written_shape_is_the_one_that_transformers_reads(kind, head_dim, tmp_path):
    values = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 3}
    values |= {"num_key_value_heads": 2, "vocab_size": 100, "tie_word_embeddings": True}
    values |= {"head_dim": head_dim} if head_dim else {}
    AutoConfig.for_model(kind, **values).save_pretrained(tmp_path)
    due = ModelShape.of(AutoConfig.from_pretrained(tmp_path))
    file = tmp_path / "config.json"
    assert written_shape(file) == due == ModelShape(3, 64, 96, 4, 2, head_dim or 16, 100, True)
    left = json.loads(file.read_text())
    del left["num_key_value_heads"]
    file.write_text(json.dumps(left))
    assert written_shape(file) is None
    file.write_text("{")
    assert written_shape(file) is None
