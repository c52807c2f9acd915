"""Batches that don't fit into memory: pieces with the result of the whole, and one clear error for the smallest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from adapter_stages import QUIET, align_stage, distill_stage, rec_tune_stage
from hypothesis import given
from hypothesis import strategies as st
from narrow import CPU, GPU, STEP, narrow

from trackrec.llm.backbone import LanguageModel
from trackrec.llm.loading import BackboneSettings, LoRASettings
from trackrec.llm.memory import FittingBatches, MemoryLimitError, halve_list, ran_out
from trackrec.llm.packing import Branch, first_paths
from trackrec.llm.sampling.hf_sampler import HFSampler
from trackrec.llm.sampling.sampler import draw_seed
from trackrec.llm.training.fit import fit_adapter
from trackrec.storage.parts import read_table
from trackrec.validator.prompt_tree import validator_tree
from trackrec.validator.score import score_reccots
from trackrec.validator.settings import ScoreSettings

pytestmark = pytest.mark.slow
PROMPTS = [[0, 402, 31, 77], [0, 402, 290, 12, 13, 14, 15, 90, 3, 200], [0, 402, 5, 6, 7, 8, 9], [0, 402, 61], [0, 9]]
SEEDS = [[draw_seed(7, 1, f"h{row}", draw) for draw in range(4)] for row in range(len(PROMPTS))]
STAGES = [distill_stage, align_stage, rec_tune_stage]


# -- the mechanism ------------------------------------------------------------------------------------------------


def numbers(limit: int | None = None) -> FittingBatches[Any]:
    memory: FittingBatches[Any] = FittingBatches("counting", "Lower x.y.", "Lower z.", sum, halve_list)
    memory.limit = limit
    return memory


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(9, 60))
def test_pieces_come_in_order_and_none_is_larger_than_what_fits(items, room):
    tried: list[int] = []

    def compute(piece):
        tried.append(sum(piece))
        if tried[-1] > room:
            raise GPU
        return list(piece)

    memory = numbers()
    with mock.patch("trackrec.llm.memory.release"):  # a collection of all garbage: a tenth of a second
        for _ in range(2):
            assert [one for piece in memory.run(items, compute) for one in piece] == items
    first = tried[: tried.index(sum(items), 1)] if sum(items) in tried[1:] and sum(items) <= room else tried
    assert sum(size > room for size in first) <= 6  # halvings; the second run repeats none of them
    assert tried.count(sum(items)) <= (2 if sum(items) <= room else 1)


def test_it_is_said_once_and_the_smaller_size_stays(caplog):
    def compute(piece):
        if sum(piece) > 3:
            raise CPU
        return sum(piece)

    memory = numbers()
    assert memory.run([1] * 8, compute) == [2, 2, 2, 2]
    assert memory.run([1] * 8, compute) == [2, 2, 2, 2]
    (record,) = caplog.records
    text = record.getMessage()
    assert text.startswith("counting: a batch of 8 tokens doesn't fit into memory ([enforce fail")
    assert text.endswith("in pieces of at most 2, and so are later ones. Lower x.y.")


def test_the_smallest_piece_that_fails_names_what_to_lower():
    def compute(piece):
        raise GPU

    with pytest.raises(MemoryLimitError, match=r"counting: 7 tokens that can't be divided .*2\.00 GiB.*Lower z\."):
        numbers().run([7, 9], compute)


def test_another_error_is_not_touched():
    def compute(piece):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        numbers().run([1, 2], compute)


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (GPU, True),
        (CPU, True),
        (MemoryError(), True),
        (RuntimeError("could not allocate memory"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (OSError(28, "No space left on device"), False),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_full_memory(error, is_memory):
    assert ran_out(error) == is_memory


def test_the_paths_that_are_compared_are_a_part_of_the_tree():
    tree = [Branch([1]), Branch([2], 0), Branch([3], 0), Branch([4], 1), Branch([5], 1), Branch([6], 2)]
    assert first_paths(tree, 9) == tree
    assert first_paths(tree, 1) == [Branch([1]), Branch([2], 0), Branch([4], 1)]
    assert first_paths(tree, 3) == tree
    assert first_paths([tree[0], tree[2], Branch([6], 1)], 1) == [Branch([1]), Branch([3], 0), Branch([6], 1)]


# -- sampling -----------------------------------------------------------------------------------------------------


def draws(lm: Any, prompts: Any = PROMPTS, seeds: Any = SEEDS) -> Any:
    sampler = HFSampler(n=4, max_new_tokens=8, batch_tokens=10_000)
    return sampler.draw(lm, None, prompts, seeds, lambda done: None)


@pytest.mark.parametrize("error", [GPU, CPU], ids=["gpu", "cpu"])
@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_sampling_in_pieces_gives_the_same_draws(tiny_lm, error, architecture, caplog):
    whole = draws(tiny_lm(architecture))
    lm = tiny_lm(architecture)
    asked = narrow(lm, 20, error)  # five prompts of width 10 don't fit, two do
    assert draws(lm) == whole
    assert max(size for size in asked if size <= 20) > 10
    assert caplog.text.count("sampling: a batch of") == 1
    assert "Lower sampler.init_args.batch_tokens to start with such pieces." in caplog.text


def test_the_draws_of_one_prompt_are_divided_too(tiny_lm):
    """Reading a prompt fits; writing more than two texts at a time doesn't."""
    whole = draws(tiny_lm())
    lm = tiny_lm()
    asked = narrow(lm, 2, measure=lambda ids: len(ids) if ids.shape[1] == 1 else 0)
    assert draws(lm) == whole
    assert max(asked) == 20


def test_a_greedy_prompt_that_does_not_fit_is_an_error(tiny_lm):
    lm = tiny_lm()
    narrow(lm, 9)
    with pytest.raises(MemoryLimitError, match=r"sampling: .*Lower sampler\.init_args\.max_new_tokens or prompts"):
        draws(lm, seeds=None)


# -- scoring ------------------------------------------------------------------------------------------------------


def scores(lm: Any, book: Any, out: Path) -> Any:
    texts = [(0, "Enjoys Drama."), (1, "Avoids Horror; likes War and Comedy.")]
    targets = [("s0", "i3", 1), ("s1", "i8", 0)]
    entries = [(f"h{i}", validator_tree(lm.chat, book, f"h{i}", texts, targets)) for i in range(6)]
    common = {
        "source": "g",
        "round_": 1,
        "validator": "base",
        "reader": ScoreSettings(100_000).reader(),
        "shard_size": 6,
    }
    score_reccots(lm, None, entries, out, **common)
    return read_table(out, "scores").sort("history_id", "draw", "sample_id")


def test_scoring_in_pieces_gives_the_same_scores(tiny_lm, tiny_book, tmp_path, caplog):
    whole = scores(tiny_lm(), tiny_book, tmp_path / "whole")
    lm = tiny_lm()
    asked = narrow(lm, 1500)
    found = scores(lm, tiny_book, tmp_path / "pieces")
    assert max(asked) > 1500
    assert found.drop("p_yes", "p_true", "answer_mass").equals(whole.drop("p_yes", "p_true", "answer_mass"))
    for column in ("p_yes", "p_true", "answer_mass"):
        assert found[column].to_list() == pytest.approx(whole[column].to_list(), abs=1e-5)
    assert caplog.text.count("scoring: a batch of") == 1


def test_a_history_that_does_not_fit_is_an_error(tiny_lm, tiny_book, tmp_path):
    lm = tiny_lm()
    narrow(lm, 100)
    with pytest.raises(MemoryLimitError, match=r"scoring: .*can't be divided.*Lower prompts\.validator\.max_history"):
        scores(lm, tiny_book, tmp_path)


# -- training -----------------------------------------------------------------------------------------------------


def one_step(lm: Any, book: Any, root: Path, stage: Any, **narrowness: Any) -> tuple[list[torch.Tensor], dict, list]:
    """Gradients and logged values of one batch of all six examples, off the start, and what the model was asked."""
    module, data = stage(lm, book, root)
    for parameter in module._trained:
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    data.setup("fit")
    asked = narrow(lm, **narrowness) if narrowness else []
    module.trainer = type("Trainer", (), {"datamodule": data, **STEP})()
    values: dict[str, float] = {}
    module.log_step = lambda given, ids: values.update({name: float(value) for name, value in given.items()})
    module.training_step(data.collate(data.examples), 0).backward()
    return [parameter.grad for parameter in module._trained], values, asked


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_batch_in_pieces_has_the_gradient_of_the_whole(tiny_lm, tiny_book, tmp_path, stage, backward, caplog):
    """Texts of unequal length, sets of unequal size, histories with unequal rows: means are over all, not of means."""
    build = {"adapters": ["g"], "lora": LoRASettings(r=4)}
    whole, due, _ = one_step(tiny_lm(**build), tiny_book, tmp_path / "whole", stage)
    most = {distill_stage: 700, align_stage: 600, rec_tune_stage: 900}[stage]
    pieces, found, asked = one_step(
        tiny_lm(**build), tiny_book, tmp_path / "pieces", stage, most=most, backward=backward
    )
    assert len([size for size in asked if size <= most]) >= 2, asked
    assert found == pytest.approx(due, rel=1e-4, abs=1e-5)
    for one, other in zip(whole, pieces, strict=True):
        assert one.norm() > 0
        assert (one - other).norm() <= 1e-4 * one.norm()
    assert caplog.text.count("doesn't fit into memory") == 1


@pytest.mark.parametrize("stage", STAGES)
def test_a_training_in_pieces_ends_where_the_whole_ends(tiny_lm, tiny_book, tmp_path, stage):
    """Two batches a step, gradients clipped: Lightning sees the batches that it asked for."""
    ends, steps = [], []
    for name, most in (("whole", 10**9), ("pieces", {distill_stage: 300, align_stage: 250}.get(stage, 400))):
        lm = tiny_lm(adapters=["g"], lora=LoRASettings(r=4))
        module, data = stage(lm, tiny_book, tmp_path / name)
        module.lr = 1e-4
        asked = narrow(lm, most)
        args = QUIET | {"max_epochs": 2, "accumulate_grad_batches": 2, "gradient_clip_val": 1.0}
        trainer = fit_adapter(module, data, args, tmp_path / name / "out")
        ends.append([parameter.detach().clone() for parameter in module._trained])
        steps.append(trainer.global_step)
        assert max(asked) <= 10**9
    assert max(asked) > most
    assert steps == [4, 4]
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (distill_stage, r"distill: .*Lower prompts\.generator\.max_history, or set backbone\.gradient_checkpointing"),
        (align_stage, r"align: .*Lower align\.sets\.negatives"),
        (rec_tune_stage, r"rec_tune: .*Lower rec_tune\.data\.samples_per_history"),
    ],
)
def test_one_example_that_does_not_fit_names_the_keys(tiny_lm, tiny_book, tmp_path, stage, words):
    lm = tiny_lm(adapters=["g"], lora=LoRASettings(r=4))
    module, data = stage(lm, tiny_book, tmp_path)
    narrow(lm, 20)
    with pytest.raises(MemoryLimitError, match=words):
        fit_adapter(module, data, QUIET | {"max_epochs": 1}, tmp_path / "out")
    assert not (tmp_path / "out" / "adapter").exists()


def test_references_in_pieces_are_those_of_the_whole(tiny_lm, tiny_book, tmp_path):
    found = []
    for name, most in (("whole", 10**9), ("pieces", 250)):
        lm = tiny_lm(adapters=["g"], lora=LoRASettings(r=4))
        narrow(lm, most)
        found.append(align_stage(lm, tiny_book, tmp_path / name)[1].references)
    assert found[0].keys() == found[1].keys()
    for key, (chosen, rejected) in found[0].items():
        assert found[1][key][0] == pytest.approx(chosen, abs=1e-4)
        assert found[1][key][1] == pytest.approx(rejected, abs=1e-4)


class Greedy(torch.optim.AdamW):
    """An optimizer for whose state there is no memory."""

    def step(self, closure: Any = None) -> None:
        super().step(closure)
        raise GPU


def test_memory_that_is_full_for_another_reason_is_an_error_too(tiny_lm, tiny_book, tmp_path, monkeypatch):
    lm = tiny_lm(adapters=["g"], lora=LoRASettings(r=4))
    module, data = distill_stage(lm, tiny_book, tmp_path)
    monkeypatch.setattr(torch.optim, "AdamW", Greedy)
    with pytest.raises(MemoryLimitError, match=r"distill: the adapter and its optimizer .*Lower backbone\.lora\.r"):
        fit_adapter(module, data, QUIET | {"max_epochs": 1}, tmp_path / "out")


def test_a_model_that_does_not_fit_names_quantize(tiny_model_dir, monkeypatch):
    from trackrec.llm import loading

    def load(*args: Any) -> Any:
        raise GPU

    monkeypatch.setattr(loading, "load_base", load)
    with pytest.raises(MemoryLimitError, match=r"backbone\.model .* doesn't fit .*quantize: nf4"):
        LanguageModel(BackboneSettings(model=str(tiny_model_dir), device="cpu"))


# -- a real limit -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="RLIMIT_AS is read and set as on Linux")
def test_a_real_limit_on_the_address_space_is_survived(tiny_model_dir, tmp_path):
    """The allocator itself says no, to a whole batch and not to a part of it, in scoring and in training."""
    tests = Path(__file__).parent.parent
    path = os.pathsep.join([str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")])
    script = [sys.executable, str(tests / "llm" / "little_memory.py"), str(tiny_model_dir), str(tmp_path)]
    ran = subprocess.run(script, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.split() == ["scores", "equal,", "gradients", "equal"]
    assert "scoring: a batch of" in ran.stderr
    assert "distill: a batch of" in ran.stderr
    assert ran.stderr.count("can't allocate memory") >= 2
