"""Texts are the same whether draws share their prompt's keys, own a copy, or leave when they are done."""

import pytest
import torch

from trackrec.llm.sampling import decode
from trackrec.llm.sampling.decode import SharedCache, write_texts
from trackrec.llm.sampling.nucleus import SeededTopP, greedy

PROMPTS = [[0, 402, 31, 77], [9, 402, 290, 12, 13, 14, 15, 90, 3, 200], [402], [0, 402, 61]]
STEPS = 14


def sampled(lm, n=3):
    with lm.using(None):
        return write_texts(lm, PROMPTS, n, STEPS, SeededTopP(list(range(len(PROMPTS) * n)), STEPS, 1.0, 0.95))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "mistral", "gemma"])
def test_shared_and_repeated_prompts_give_the_same_texts(tiny_lm, architecture):
    lm = tiny_lm(architecture)
    assert lm.can_pack()
    shared = sampled(lm)
    lm._packs = False
    assert sampled(lm) == shared
    assert len({tuple(text) for text in shared}) > len(PROMPTS)


def test_prompts_read_in_pieces_give_the_same_texts(tiny_lm, monkeypatch):
    """A CPU reads few tokens at once; the second prompt is alone, the others are padded to its width."""
    lm, read = tiny_lm(), []
    inner = decode._read_rows
    monkeypatch.setattr(decode, "_read_rows", lambda lm, ids, seen: read.append(len(ids)) or inner(lm, ids, seen))
    whole = sampled(lm)
    for most, due in ((20, [2, 2]), (1, [1, 1, 1, 1])):
        read.clear()
        monkeypatch.setattr(decode, "_CPU_TOKENS", most)
        assert sampled(lm) == whole
        assert read == due


def test_sharing_is_used_where_it_can_be(tiny_lm, monkeypatch):
    made, plain, eager = [], tiny_lm(), tiny_lm(attention="eager")
    monkeypatch.setattr(decode, "SharedCache", lambda *args: made.append(1) or SharedCache(*args))
    sampled(plain)
    assert made == [1]
    sampled(eager)
    assert made == [1]


@pytest.mark.parametrize("packs", [True, False])
def test_finished_texts_leave_and_the_others_stay_the_same(tiny_lm, monkeypatch, packs):
    """Rows 1 and 2 of each prompt end at step 2, all of the second prompt at step 4."""
    lm = tiny_lm()
    lm._packs = packs
    whole = sampled(lm)
    inner = SeededTopP(list(range(len(whole))), STEPS, 1.0, 0.95)
    widths = []

    def choose(logits, rows, step):
        widths.append(len(rows))
        ends = ((rows % 3 != 0) & (step >= 2)) | ((rows // 3 == 1) & (step >= 4))
        return torch.where(ends, lm.chat.eos_id, inner(logits, rows, step))

    with lm.using(None):
        found = write_texts(lm, PROMPTS, 3, STEPS, choose)
    for row, (before, after) in enumerate(zip(whole, found, strict=True)):
        end = 2 if row % 3 else 4 if row // 3 == 1 else STEPS
        assert after == (before[:end] + [lm.chat.eos_id] * (end < STEPS))[: len(after)]
        assert len(after) == min(end + 1, len(before))
    assert widths == [12] * 3 + [4] * 2 + [3] * (STEPS - 5)


def test_who_leaves():
    def leave(rows):
        picked = decode._remaining(torch.tensor(rows, dtype=torch.bool))
        return picked and tuple(part.tolist() for part in picked)

    assert leave([[1, 1], [1, 0]]) is None  # nothing is won while a prompt still has both
    assert leave([[1, 1], [0, 0]]) == ([0], [0, 1])
    assert leave([[0, 1], [1, 0]]) == ([0, 1], [1, 2])
    assert leave([[0, 1, 1], [0, 0, 0], [0, 0, 1]]) == ([0, 2], [1, 2, 8, 6])  # filled up with a finished one


def test_greedy_is_the_most_likely_token():
    assert greedy(torch.tensor([[0.0, 2.0], [3.0, 1.0]]), torch.tensor([0, 1]), 0).tolist() == [1, 0]
