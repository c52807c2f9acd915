"""vLLM itself: it writes what the language model of this process would write, base and adapters alike."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from trackrec.llm.backbone import LanguageModel
from trackrec.llm.loading import BackboneSettings, LoRASettings
from trackrec.llm.sampling.hf_sampler import HFSampler
from trackrec.llm.sampling.sampler import Draw, draw_seed
from trackrec.llm.vllm.process import VLLMError
from trackrec.llm.vllm.sampler import VLLMSampler

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

SMOLLM = Path("data/smollm2-135m-instruct")
# vLLM's attention on CPUs takes heads from 32 on.
SHAPE = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
HEAD = [0, 402, 31, 77, 290, 12, 13, 14, 15, 90, 3, 200, 5, 6, 7, 8, 9, 61]
PROMPTS = [[*HEAD, 100 + 7 * row] * (1 + row % 3) for row in range(8)]
PROMPT = HEAD[:5]
SEEDS = [[draw_seed(7, 1, f"h{row}", draw) for draw in range(3)] for row in range(8)]


@pytest.fixture(scope="module")
def vllm() -> Iterator[VLLMSampler]:
    sampler = VLLMSampler(n=3, max_new_tokens=12, top_p=0.9, kv_cache_gib=0.25)
    yield sampler
    sampler.release()


@pytest.fixture
def lm(tiny_lm) -> LanguageModel:
    """A tiny Llama with two adapters that say something."""
    made = tiny_lm(config=SHAPE, adapters=["one", "two"], lora=LoRASettings(r=4, alpha=8))
    shake(made, "one", 1)
    shake(made, "two", 2)
    return made


def shake(lm: LanguageModel, adapter: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in lm.train_only(adapter):
        parameter.data.normal_(std=0.15, generator=generator)


def nothing(count: int) -> None:
    pass


def greedy(sampler, lm: LanguageModel, adapter: str | None, prompts=PROMPTS) -> list[list[int]]:
    return [draws[0].token_ids for draws in sampler.draw(lm, adapter, prompts, None, nothing)]


def agreement(one: list, other: list) -> float:
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_greedy_texts_are_those_of_transformers(vllm, lm):
    own = HFSampler(max_new_tokens=12)
    for adapter in ("one", None, "two"):
        assert agreement(greedy(vllm, lm, adapter), greedy(own, lm, adapter)) >= 0.875


def test_adapters_in_turn_do_not_mix(vllm, lm):
    """The stale cache of an adapter's name would answer for the changed weights with the old texts."""
    texts = {name: greedy(vllm, lm, name) for name in ("one", "two", None)}
    assert agreement(texts["one"], texts["two"]) < 0.5
    assert agreement(texts["one"], texts[None]) < 0.5
    assert greedy(vllm, lm, "one") == texts["one"]
    shake(lm, "one", 3)
    changed = greedy(vllm, lm, "one")
    assert agreement(changed, texts["one"]) < 0.5
    assert agreement(changed, greedy(HFSampler(max_new_tokens=12), lm, "one")) >= 0.875
    assert greedy(vllm, lm, "two") == texts["two"]


def test_the_same_call_gives_the_same_texts_in_another_process_too(vllm, lm):
    first, again = (vllm.draw(lm, "one", PROMPTS, SEEDS, nothing) for _ in range(2))
    pid = vllm.host.pid
    vllm.release()
    assert gone(pid)
    assert first == again == vllm.draw(lm, "one", PROMPTS, SEEDS, nothing)
    assert len({tuple(draw.token_ids) for row in first for draw in row}) > 20


def test_draws_stop_at_the_end_of_text_and_keep_it(vllm, lm):
    written = [
        token for row in vllm.draw(lm, None, PROMPTS, SEEDS, nothing) for draw in row for token in draw.token_ids
    ]
    lm.chat.eos_id = eos = Counter(written).most_common(1)[0][0]  # a random model rarely says its own
    done: list[int] = []
    draws = [draw for row in vllm.draw(lm, None, PROMPTS, SEEDS, done.append) for draw in row]
    stopped = [draw for draw in draws if draw.finish_reason == "stop"]
    assert 0 < len(stopped) < len(draws)
    assert all(draw.token_ids.index(eos) == len(draw.token_ids) - 1 for draw in stopped)
    assert all(eos not in draw.token_ids and len(draw.token_ids) == 12 for draw in draws if draw not in stopped)
    assert {draw.finish_reason for draw in draws} == {"stop", "length"}
    assert sum(done) == len(PROMPTS)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 0.9), (0.5, 1.0), (0.7, 0.6)])
def test_first_tokens_follow_the_nucleus(vllm, lm, temperature, top_p):
    """Chi-square over 800 draws against the exact distribution of the model, cells of less than 5 together."""
    draws = first_tokens(vllm, lm, "one", PROMPT, 800, temperature, top_p)
    with lm.using("one"):
        logits = lm.base(input_ids=torch.tensor([PROMPT])).logits[0, -1]
    p = nucleus(logits, temperature, top_p)
    found = torch.bincount(torch.tensor(draws), minlength=len(p)).double()
    assert found[p == 0].sum() <= 3  # tokens at the very edge of the nucleus
    assert chi_square_excess(found, p * len(draws)) < 4


def first_tokens(sampler, lm, adapter, prompt, count: int, temperature: float, top_p: float) -> list[int]:
    settings = sampler.temperature, sampler.top_p, sampler.max_new_tokens
    sampler.temperature, sampler.top_p, sampler.max_new_tokens = temperature, top_p, 1
    try:
        (row,) = sampler.draw(lm, adapter, [prompt], [[draw_seed(3, 1, "h", draw) for draw in range(count)]], nothing)
    finally:
        sampler.temperature, sampler.top_p, sampler.max_new_tokens = settings
    return [draw.token_ids[0] for draw in row]


def nucleus(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    p = (logits.double() / temperature).softmax(-1)
    ordered, ids = p.sort(descending=True)
    count = int((ordered.cumsum(-1) < top_p).sum()) + 1
    out = torch.zeros_like(p)
    out[ids[:count]] = ordered[:count] / ordered[:count].sum()
    return out


def chi_square_excess(found: torch.Tensor, due: torch.Tensor) -> float:
    """How many standard deviations the statistic lies above its mean."""
    large = due >= 5
    cells = torch.cat([found[large], found[~large].sum().reshape(1)])
    expected = torch.cat([due[large], due[~large].sum().reshape(1)])
    cells, expected = cells[expected > 0], expected[expected > 0]
    statistic, freedom = float(((cells - expected) ** 2 / expected).sum()), len(cells) - 1
    return (statistic - freedom) / (2 * freedom) ** 0.5


def test_more_prompts_than_one_step_holds(lm):
    """Seeded prompts that are read in pieces would fail on a CPU."""
    sampler = VLLMSampler(n=3, max_new_tokens=4, batch_tokens=1024, kv_cache_gib=0.25)
    try:
        draws = sampler.draw(lm, None, [[5 + row, *HEAD * 15] for row in range(8)], SEEDS, nothing)
    finally:
        sampler.release()
    assert [len(row) for row in draws] == [3] * 8


def test_a_process_killed_at_work_is_told_and_replaced(vllm, lm):
    killed: list[int] = []

    def kill(_count: int) -> None:
        killed.append(vllm.host.pid)
        os.kill(vllm.host.pid, 9)

    with pytest.raises(VLLMError, match=r"died while it wrote texts .killed") as caught:
        vllm.draw(lm, None, PROMPTS * 20, [[1 + draw for draw in range(3)] for _ in PROMPTS * 20], kill)
    assert len(str(caught.value).splitlines()) > 5
    assert vllm.host.pid is None
    assert gone(killed[0])
    assert isinstance(vllm.draw(lm, None, PROMPTS[:1], None, nothing)[0][0], Draw)


def test_an_engine_that_cannot_start_is_told(lm):
    with pytest.raises(VLLMError, match="vLLM failed while it started: "):
        VLLMSampler(n=1, max_new_tokens=4, kv_cache_gib=1e-6).draw(lm, None, PROMPTS, None, nothing)


@pytest.mark.models
def test_smollm2_writes_what_transformers_writes():
    lm = LanguageModel(BackboneSettings(model=str(SMOLLM), dtype="bfloat16", device="cpu", lora=LoRASettings(r=8)))
    lm.add_adapter("g", 0)
    shake_a_little(lm, "g")
    films = ["Alien (1979): liked", "Casablanca (1942): disliked", "Fargo (1996): liked", "Babe (1995): disliked"]
    asks = [f"A viewer rated films.\n{film}\nDescribe the taste of this viewer." for film in films * 2]
    prompts = [lm.chat.encode_prompt([ask, "" if row < 4 else " Be short."]) for row, ask in enumerate(asks)]
    sampler = VLLMSampler(n=4, max_new_tokens=24)
    try:
        for adapter in (None, "g"):
            ours, theirs = (greedy(one, lm, adapter, prompts) for one in (HFSampler(max_new_tokens=24), sampler))
            # bfloat16 rounds differently in the two engines: a near tie of two tokens parts their texts.
            assert sum(a[:8] == b[:8] for a, b in zip(ours, theirs, strict=True)) >= 6
            draws = first_tokens(sampler, lm, adapter, prompts[0], 400, 1.0, 0.9)
            with lm.using(adapter):
                p = nucleus(lm.base(input_ids=torch.tensor([prompts[0]])).logits[0, -1], 1.0, 0.9)
            found = torch.bincount(torch.tensor(draws), minlength=len(p)).double() / len(draws)
            assert (found - p).abs().sum() / 2 < 0.15
    finally:
        sampler.release()


def shake_a_little(lm: LanguageModel, adapter: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in lm.train_only(adapter):
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.01)
