"""Log-probabilities of chosen tokens against log_softmax of the plain forward pass's whole logits."""

from __future__ import annotations

import pytest
import torch

from trackrec.llm import logprobs
from trackrec.llm.loading import LoRASettings
from trackrec.llm.logprobs import branch_logprobs, next_token_logprobs
from trackrec.llm.packing import Branch

PROMPT = [402, 31, 77, 290, 12]
ANSWERS = [[44, 45, 1], [300, 7, 8, 200, 10, 1], [99]]
TREE = [Branch(PROMPT), *(Branch(ids, 0) for ids in ANSWERS)]
WANTED = [(0, 1), (0, 2), (0, 3)]
# logits_scaling, logit_scale and final_logit_softcapping are far from 1, so that leaving one out shows
SCALED = [("granite", {"logits_scaling": 4.0}), ("cohere", {"logit_scale": 0.3})]
SCALED.append(("gemma2", {"final_logit_softcapping": 1.5}))
PLAIN = [(name, {}) for name in ("llama", "qwen2", "mistral", "gemma")]


def full_logprobs(lm, ids: list[int]) -> torch.Tensor:
    """(T, V) from transformers' own forward pass."""
    return lm.base(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)


def by_hand(lm, answer: list[int]) -> float:
    table = full_logprobs(lm, PROMPT + answer)
    return sum(table[len(PROMPT) - 1 + place, token].item() for place, token in enumerate(answer))


@pytest.mark.parametrize(("architecture", "config"), PLAIN + SCALED, ids=[name for name, _ in PLAIN + SCALED])
def test_branch_logprobs_equal_the_full_softmax(tiny_lm, architecture, config):
    lm = tiny_lm(architecture, config=config)
    with lm.using(None):
        sums, lengths = branch_logprobs(lm, lm.layout([TREE]), WANTED, ANSWERS)
        due = [by_hand(lm, answer) for answer in ANSWERS]
    assert lengths.tolist() == [3, 6, 1]
    assert sums.tolist() == pytest.approx(due, abs=1e-4)


@pytest.mark.parametrize(("architecture", "config"), PLAIN + SCALED, ids=[name for name, _ in PLAIN + SCALED])
def test_next_token_logprobs_equal_the_full_softmax(tiny_lm, architecture, config):
    lm, asked = tiny_lm(architecture, config=config), [290, 358, 327]
    layout = lm.layout([TREE])
    with lm.using(None):
        found = next_token_logprobs(lm, layout, layout.spots[0], asked)
        due = torch.stack([full_logprobs(lm, ids)[-1, asked] for ids in (PROMPT, *(PROMPT + a for a in ANSWERS))])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, due, rtol=0, atol=1e-4)


def test_fault_02_first_answer_token_counts_and_no_pad_does(tiny_lm):
    """The first differing token is one of the terms; the row's padding is none, however long the neighbour."""
    lm, answer = tiny_lm(), [44, 45, 1]
    other_first = [61, 45, 1]
    trees = [[Branch(PROMPT), Branch(ids, 0)] for ids in (answer, other_first, list(range(50, 90)))]
    layout = lm.layout(trees)
    assert layout.valid[0].sum() < layout.ids.shape[1]
    with lm.using(None):
        sums, lengths = branch_logprobs(lm, layout, [(0, 1), (1, 1)], [answer, other_first])
        assert sums.tolist() == pytest.approx([by_hand(lm, answer), by_hand(lm, other_first)], abs=1e-4)
        first = full_logprobs(lm, PROMPT)[-1]
    assert lengths.tolist() == [3, 3]
    assert first[answer[0]].item() < -0.5  # dropping the first term would show


def test_logits_exist_for_asked_positions_only(tiny_lm, monkeypatch):
    """Ten positions are asked of a row of 17 tokens; with chunks of 4 no call sees more than 4 of them."""
    lm = tiny_lm(adapters=["g"], lora=LoRASettings(r=2))
    lm.train_only("g")
    rows: list[int] = []
    monkeypatch.setattr(logprobs, "CHUNK", 4)
    plain = lm.logits
    monkeypatch.setattr(lm, "logits", lambda hidden: rows.append(len(hidden)) or plain(hidden))
    sums, _ = branch_logprobs(lm, lm.layout([TREE]), WANTED, ANSWERS)
    assert rows == [4, 4, 2]
    sums.sum().backward()
    assert sorted(rows[3:]) == [2, 4, 4]  # computed again for the gradient, not kept


def test_chunks_change_neither_value_nor_gradient(tiny_lm, monkeypatch):
    lm = tiny_lm(adapters=["g"], lora=LoRASettings(r=2))
    parameters = lm.train_only("g")
    found = []
    for chunk in (512, 3):
        monkeypatch.setattr(logprobs, "CHUNK", chunk)
        sums, _ = branch_logprobs(lm, lm.layout([TREE]), WANTED, ANSWERS)
        found.append((sums.detach(), torch.autograd.grad(sums.sum(), parameters)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
