"""Sampling: the nucleus exactly, every draw by its own seed, and greedy text as transformers writes it."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from trackrec.llm.backbone import LanguageModel
from trackrec.llm.loading import BackboneSettings
from trackrec.llm.sampling.decode import write_texts
from trackrec.llm.sampling.hf_sampler import HFSampler
from trackrec.llm.sampling.nucleus import SeededTopP, top_p_choice
from trackrec.llm.sampling.sampler import Draw, draw_seed

PROMPTS = [[0, 402, 31, 77], [0, 402, 290, 12, 13, 14, 15, 90, 3, 200], [0, 402, 5, 6, 7, 8, 9], [0, 402, 61]]
SEEDS = [[draw_seed(7, 1, f"h{row}", draw) for draw in range(3)] for row in range(4)]


def nucleus(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """(V,) the exact distribution: the fewest most likely tokens that reach top_p, renormalised. float64."""
    p = (logits.double() / temperature).softmax(-1)
    ordered, ids = p.sort(descending=True)
    count = int((ordered.cumsum(-1) < top_p).sum()) + 1
    out = torch.zeros_like(p)
    out[ids[:count]] = ordered[:count] / ordered[:count].sum()
    return out


def frequencies(logits: torch.Tensor, temperature: float, top_p: float, steps: int) -> torch.Tensor:
    """(V,) shares of the choices over an even grid of uniforms: exact to 1/steps, no luck involved."""
    u = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    chosen = top_p_choice(logits.expand(steps, -1), u, temperature, top_p)
    return torch.bincount(chosen, minlength=logits.shape[-1]).double() / steps


@pytest.mark.parametrize("top_p", [0.3, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_choices_follow_the_exact_nucleus(temperature, top_p):
    logits = torch.randn(40, generator=torch.Generator().manual_seed(0)) * 2
    due = nucleus(logits, temperature, top_p)
    found = frequencies(logits, temperature, top_p, steps=4000)
    assert (found - due).abs().max() <= 1 / 4000 + 1e-6
    assert set(found.nonzero().flatten().tolist()) <= set(due.nonzero().flatten().tolist())


def test_a_nucleus_longer_than_the_shortlist_is_whole():
    """Near-uniform over 700 tokens: 0.9 of the mass needs about 600 of them, the short list holds 256."""
    logits = torch.randn(700, generator=torch.Generator().manual_seed(1)) * 0.3
    due = nucleus(logits, 1.0, 0.9)
    assert (due > 0).sum() > 500
    found = frequencies(logits, 1.0, 0.9, steps=6000)
    assert (found - due).abs().max() <= 1 / 6000 + 1e-6
    assert ((found > 0) == (due > 0)).float().mean() > 0.99


def test_a_peaked_row_is_chosen_alike_beside_a_flat_one():
    """The flat row sends the whole batch past the short list; the peaked row's choices stay."""
    generator = torch.Generator().manual_seed(2)
    peaked, flat = torch.randn(700, generator=generator) * 4, torch.randn(700, generator=generator) * 0.1
    u = torch.linspace(0, 0.999, 50, dtype=torch.float64)
    alone = top_p_choice(peaked.expand(50, -1), u, 1.0, 0.9)
    beside = top_p_choice(torch.cat([peaked.expand(50, -1), flat.expand(50, -1)]), u.repeat(2), 1.0, 0.9)[:50]
    assert alone.tolist() == beside.tolist()
    assert len(set(alone.tolist())) > 3


def test_the_ends_of_the_unit_interval():
    logits = torch.tensor([[0.0, 3.0, 1.0, -2.0]])
    below_one = torch.tensor([1 - 2**-53], dtype=torch.float64)
    assert top_p_choice(logits, torch.zeros(1, dtype=torch.float64), 1.0, 1.0).item() == 1
    assert top_p_choice(logits, below_one, 1.0, 1.0).item() == 3
    assert top_p_choice(logits, below_one, 1.0, 0.9).item() == 2
    assert top_p_choice(logits, below_one, 1.0, 0.01).item() == 1


def draw(lm, prompts, seeds, **settings) -> list[list[Draw]]:
    done: list[int] = []
    values = {"n": 3, "max_new_tokens": 12, "batch_tokens": 10_000, "top_p": 0.9} | settings
    draws = HFSampler(**values).draw(lm, None, prompts, seeds, done.append)
    assert sum(done) == len(prompts)
    return draws


def test_a_draw_depends_on_its_own_seed_and_not_on_its_neighbours(tiny_lm):
    lm = tiny_lm()
    together = draw(lm, PROMPTS, SEEDS)
    assert together == draw(lm, PROMPTS, SEEDS)
    assert together == draw(lm, PROMPTS, SEEDS, batch_tokens=1)
    assert list(reversed(together)) == draw(lm, PROMPTS[::-1], SEEDS[::-1])
    for row, prompt in enumerate(PROMPTS):
        for place, seed in enumerate(SEEDS[row]):
            assert draw(lm, [prompt], [[seed]]) == [[together[row][place]]]
    distinct = {tuple(one.token_ids) for row in together for one in row}
    assert len(distinct) == 12  # four prompts, three draws: none equals another


def test_draws_are_what_step_by_step_sampling_gives(tiny_lm):
    """Each token by hand: the whole forward pass without a cache, and the seed's next uniform number."""
    lm = tiny_lm()
    draws = draw(lm, PROMPTS[:2], [row[:1] for row in SEEDS[:2]], temperature=0.7)
    for prompt, seeds, (found,) in zip(PROMPTS, SEEDS, draws, strict=False):
        u = torch.rand(12, generator=torch.Generator().manual_seed(seeds[0]), dtype=torch.float64)
        ids = list(prompt)
        with torch.no_grad():
            for step in range(12):
                logits = lm.base(input_ids=torch.tensor([ids])).logits[:, -1]
                ids.append(top_p_choice(logits, u[step : step + 1], 0.7, 0.9).item())
                if ids[-1] == lm.chat.eos_id:
                    break
        assert found.token_ids == ids[len(prompt) :]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma"])
def test_greedy_equals_transformers_generate(tiny_lm, architecture):
    lm = tiny_lm(architecture)
    found = draw(lm, PROMPTS, None)
    assert [len(row) for row in found] == [1, 1, 1, 1]
    for prompt, (one,) in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([prompt])
        due = lm.base.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12)
        assert one.token_ids == due[0, len(prompt) :].tolist()


def test_the_end_of_text_is_kept_and_ends_a_draw(tiny_lm):
    """A token that greedy text reaches is declared the end-of-text token."""
    lm = tiny_lm()
    cut = [row[0] for row in draw(lm, PROMPTS, None)]
    assert {one.finish_reason for one in cut} == {"length"}
    assert {len(one.token_ids) for one in cut} == {12}
    end = cut[1].token_ids[5]
    lm.chat.eos_id = end
    for before, after in zip(cut, (row[0] for row in draw(lm, PROMPTS, None)), strict=True):
        if end in before.token_ids:
            due = Draw(before.token_ids[: before.token_ids.index(end) + 1], "stop")
            assert after == due
        else:
            assert after == before
    (stopped,) = draw(lm, PROMPTS[1:2], None)[0]
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids[-1] == end


def test_a_token_that_the_model_names_ends_a_draw_too(tiny_models, tiny_lm, tmp_path):
    """Chat models end a turn with a token of their own; ids that the tokenizer holds for text don't count."""
    lm = tiny_lm()
    start, plain = lm.chat.tokenizer.convert_tokens_to_ids("<|im_start|>"), draw(lm, PROMPTS, None)[0][0].token_ids[2]
    where = shutil.copytree(tiny_models("llama"), tmp_path / "model")
    path = where / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": [lm.chat.eos_id, start, plain]}))
    told = LanguageModel(BackboneSettings(str(where), dtype="float32", device="cpu"))
    assert told.chat.stop_ids == {lm.chat.eos_id, start}
    forced = iter([5, 6, start, 7])
    with told.using(None):
        (text,) = write_texts(told, PROMPTS[:1], 1, 4, lambda logits, rows, step: torch.tensor([next(forced)]))
    assert text == [5, 6, start]


def test_an_adapter_writes_other_texts_than_the_base(tiny_lm):
    lm = tiny_lm(adapters=["g"])
    for parameter in lm.train_only("g"):
        parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    sampler = HFSampler(n=1, max_new_tokens=8)
    base, adapted = (sampler.draw(lm, name, PROMPTS, None, lambda done: None) for name in (None, "g"))
    assert base == draw(tiny_lm(), PROMPTS, None, max_new_tokens=8)
    assert adapted != base


def test_a_row_follows_its_own_stream_whatever_rows_are_left():
    choose = SeededTopP([1, 2, 3], steps=3, temperature=1.0, top_p=0.9)
    logits = torch.randn(3, 30, generator=torch.Generator().manual_seed(0))
    for step in range(3):
        together = choose(logits, torch.arange(3), step)
        assert choose(logits[[2, 0]], torch.tensor([2, 0]), step).tolist() == together[[2, 0]].tolist()


def test_a_draws_seed_is_a_function_of_its_key():
    assert draw_seed(42, 1, "h0", 3) == draw_seed(42, 1, "h0", 3) == 413270606015406813
    keys = [(s, r, h, d) for s in (0, 1) for r in (0, 1) for h in ("h1", "h11") for d in (0, 1)]
    seeds = {draw_seed(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**60 for seed in seeds)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n": 0}, r"sampler\.init_args\.n must be at least 1, got 0"),
        ({"max_new_tokens": 0}, r"max_new_tokens must be at least 1, got 0"),
        ({"batch_tokens": -1}, r"batch_tokens must be at least 1, got -1"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"top_p": 1.1}, r"top_p must be in \(0, 1\], got 1.1"),
        ({"temperature": 0.0}, r"temperature must be above 0, got 0.0"),
    ],
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        HFSampler(**setting)


def test_a_text_that_the_model_does_not_reach_is_named_before_the_first(tiny_lm):
    lm = tiny_lm("llama")
    sampler = HFSampler(max_new_tokens=lm.max_length // 2)
    sampler.check_reach(lm, lm.max_length // 2)
    with pytest.raises(ValueError, match=rf"{lm.max_length + 1} tokens, the model reaches {lm.max_length}: lower"):
        sampler.check_reach(lm, lm.max_length + 1 - lm.max_length // 2)
