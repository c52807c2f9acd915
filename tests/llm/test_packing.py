"""Packed trees: literal layouts, and the proof that a packed path is computed as if it stood alone."""

from __future__ import annotations

import logging
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trackrec.llm import parity
from trackrec.llm.loading import LoRASettings
from trackrec.llm.logprobs import branch_logprobs
from trackrec.llm.packing import Branch, Spot, pack, path_ids, tree_tokens, unroll

ROOT_AND_TWO = [Branch([5, 6]), Branch([7], 0), Branch([8, 9], 0)]
TWO_LEVELS = [Branch([1, 2]), Branch([3], 0), Branch([4, 5], 1), Branch([6], 1), Branch([7], 0)]


def visible(layout):
    """(B, T, T) which column sees which, read off the additive mask."""
    return (layout.attention_mask(torch.float32, torch.device("cpu")) == 0).squeeze(1).numpy()


def test_pack_literal():
    layout = pack([ROOT_AND_TWO, [Branch([3]), Branch([4], 0)]])
    assert layout.ids.tolist() == [[5, 6, 7, 8, 9], [3, 4, 0, 0, 0]]
    assert layout.positions.tolist() == [[0, 1, 2, 2, 3], [0, 1, 0, 0, 0]]
    assert layout.valid.astype(int).tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert layout.until.tolist() == [[5, 5, 3, 5, 5], [2, 2, 3, 4, 5]]
    assert visible(layout).astype(int).tolist() == [
        [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 0, 1, 1]],
        [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]],
    ]
    assert layout.spots == [
        [Spot(0, 0, 2, -1), Spot(0, 2, 1, 1), Spot(0, 3, 2, 1)],
        [Spot(1, 0, 1, -1), Spot(1, 1, 1, 0)],
    ]
    assert layout.tokens == 10


def test_unroll_literal():
    layout = unroll([TWO_LEVELS])
    assert layout.ids.tolist() == [[1, 2, 3, 4, 5], [1, 2, 3, 6, 0], [1, 2, 7, 0, 0]]
    assert layout.positions.tolist() == [[0, 1, 2, 3, 4]] * 3
    assert layout.valid.astype(int).tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]
    assert layout.until is None
    # the inner branch [3] is answered from the first row below it
    assert layout.spots == [[Spot(0, 0, 2, -1), Spot(0, 2, 1, 1), Spot(0, 3, 2, 2), Spot(1, 3, 1, 2), Spot(2, 2, 1, 1)]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mask_is_a_float_in_the_models_dtype(dtype):
    """A bool mask is added to the scores by eager attention, as 0 and 1: wrong by whole nats."""
    mask = pack([ROOT_AND_TWO]).attention_mask(dtype, torch.device("cpu"))
    assert mask.dtype == dtype
    assert mask.shape == (1, 1, 5, 5)
    low = torch.finfo(dtype).min
    assert mask[0, 0, 3].tolist() == [0, 0, low, 0, low]


def test_a_tree_whose_branches_come_in_any_order_is_laid_out_in_preorder():
    """`prompts.order: release` puts the target before the text, so a second draw returns to an earlier branch."""
    tree = [Branch([1]), Branch([2], 0), Branch([3], 0), Branch([4], 1), Branch([5], 2)]
    layout = pack([tree])
    assert layout.ids.tolist() == [[1, 2, 4, 3, 5]]
    assert layout.positions.tolist() == [[0, 1, 2, 1, 2]]
    assert [spot.start for spot in layout.spots[0]] == [0, 1, 3, 2, 4]
    assert layout.until.tolist() == [[5, 3, 3, 5, 5]]


def test_the_mask_of_plain_rows_is_two_dimensional():
    mask = unroll([ROOT_AND_TWO]).attention_mask(torch.float32, torch.device("cpu"))
    assert mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


@pytest.mark.parametrize(
    "tree",
    [
        [Branch([])],
        [Branch([1]), Branch([], 0)],
        [Branch([1]), Branch([2], 1)],
        [Branch([1]), Branch([2], 2), Branch([3], 0)],
        [Branch([1]), Branch([2], -1)],
        [Branch([1], 0)],
    ],
    ids=["empty root", "empty branch", "own parent", "later parent", "two roots", "root with a parent"],
)
@pytest.mark.parametrize("lay", [pack, unroll])
def test_bad_trees_are_errors(lay, tree):
    with pytest.raises(ValueError, match="must have tokens and an earlier parent"):
        lay([ROOT_AND_TWO, tree])


@st.composite
def trees(draw):
    count = draw(st.integers(1, 7))
    lengths = draw(st.lists(st.integers(1, 4), min_size=count, max_size=count))
    parents = [-1, *(draw(st.integers(0, index - 1)) for index in range(1, count))]
    return [Branch(list(range(10 * i, 10 * i + n)), p) for i, (n, p) in enumerate(zip(lengths, parents, strict=True))]


@settings(max_examples=40, deadline=None, database=None)
@given(st.lists(trees(), min_size=1, max_size=3))
def test_a_token_sees_its_path_and_nothing_else(forest):
    packed = pack(forest)
    seen_by = visible(packed)
    assert packed.valid.sum() == sum(map(tree_tokens, forest))
    for row, tree in enumerate(forest):
        for index, branch in enumerate(tree):
            path, at = [], index
            while at >= 0:
                path, at = [*tree[at].ids, *path], tree[at].parent
            spot = packed.spots[row][index]
            for offset in range(len(branch.ids)):
                seen = np.flatnonzero(seen_by[row, spot.start + offset])
                until = len(path) - len(branch.ids) + offset + 1
                assert packed.ids[row, seen].tolist() == path[:until]
                assert packed.positions[row, seen].tolist() == list(range(until))
            if branch.parent >= 0:
                assert packed.ids[row, spot.before] == tree[branch.parent].ids[-1]


@settings(max_examples=10, deadline=None, database=None)
@given(st.lists(trees(), min_size=1, max_size=3))
def test_the_block_mask_of_flex_attention_is_the_same_mask(forest):
    layout = pack(forest, 8)
    B, T = layout.ids.shape
    mask_mod = layout.block_mask(torch.device("cpu")).mask_mod
    rows, queries, keys = torch.meshgrid(torch.arange(B), torch.arange(T), torch.arange(T), indexing="ij")
    assert mask_mod(rows, torch.zeros_like(rows), queries, keys).numpy().tolist() == visible(layout).tolist()


def random_forest() -> list[list[Branch]]:
    """Ragged trees: a prompt with five answers, one with two, a chain, and two levels with several leaves."""
    rng = random.Random(0)

    def ids(count: int) -> list[int]:
        return [rng.randrange(3, 500) for _ in range(count)]

    flat = [Branch(ids(23)), *(Branch(ids(length), 0) for length in (1, 9, 4, 17, 2))]
    short = [Branch(ids(3)), Branch(ids(2), 0), Branch(ids(6), 0)]
    chain = [Branch(ids(4)), Branch(ids(3), 0), Branch(ids(5), 1)]
    parents = [-1, 0, 0, 1, 1, 2, 2, 2]
    deep = [Branch(ids(3 + 2 * (i % 3)), parent) for i, parent in enumerate(parents)]
    return [flat, short, chain, deep]


def every_branch(forest):
    wanted = [(t, b) for t, tree in enumerate(forest) for b in range(1, len(tree))]
    return wanted, [forest[t][b].ids for t, b in wanted]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "mistral", "gemma"])
def test_packed_equals_unrolled(tiny_lm, architecture, attention):
    lm, forest = tiny_lm(architecture, attention=attention), random_forest()
    assert lm.can_pack()
    wanted, tokens = every_branch(forest)
    with lm.using(None):
        packed, lengths = branch_logprobs(lm, pack(forest), wanted, tokens)
        plain, _ = branch_logprobs(lm, unroll(forest), wanted, tokens)
        alone = torch.cat(
            [branch_logprobs(lm, unroll([forest[t]]), [(0, b)], [forest[t][b].ids])[0] for t, b in wanted]
        )
    assert lengths.tolist() == [len(ids) for ids in tokens]
    assert plain.std() > 1  # a model that says the same of everything would prove nothing
    torch.testing.assert_close(packed, plain, rtol=0, atol=1e-4)
    torch.testing.assert_close(alone, plain, rtol=0, atol=1e-4)


def lora_gradients(lm, layout, forest) -> list[torch.Tensor]:
    wanted, tokens = every_branch(forest)
    parameters = lm.train_only("g")
    sums, lengths = branch_logprobs(lm, layout, wanted, tokens)
    weights = torch.linspace(-1, 2, len(wanted), device=lm.device)
    return torch.autograd.grad((weights * sums / lengths).sum(), parameters)


@pytest.mark.parametrize("architecture", ["llama", "gemma"])
def test_packed_and_unrolled_lora_gradients_agree(tiny_lm, architecture):
    lm, forest = tiny_lm(architecture, adapters=["g"], lora=LoRASettings(r=4)), random_forest()
    torch.manual_seed(1)
    for parameter in lm.train_only("g"):
        parameter.data.normal_(std=0.1)
    packed, plain = (lora_gradients(lm, lay(forest), forest) for lay in (pack, unroll))
    for one, other in zip(packed, plain, strict=True):
        assert other.norm() > 0
        assert (one - other).norm() <= 1e-4 * other.norm()


WINDOWED = [
    ("mistral", {"sliding_window": 6}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
]


@pytest.mark.parametrize(("architecture", "config"), WINDOWED, ids=["mistral", "qwen2"])
def test_a_windowed_model_is_served_plain_rows(tiny_lm, caplog, architecture, config):
    lm, forest = tiny_lm(architecture, config=config), random_forest()
    with caplog.at_level(logging.WARNING, logger="trackrec"):
        layout = lm.layout(forest)
        lm.layout(forest)
    assert [record.message for record in caplog.records if "windowed" in record.message] == [
        f"{lm.settings.model} has windowed or linear layers: using plain rows without shared prefixes"
    ]
    assert not lm.can_pack()
    assert layout.until is None
    wanted, tokens = every_branch(forest)
    with lm.using(None):
        served, _ = branch_logprobs(lm, layout, wanted, tokens)
        packed, _ = branch_logprobs(lm, pack(forest), wanted, tokens)
    # the reason for the gate: a packed row of such a model is wrong and says nothing
    assert (served - packed).abs().max() > 1e-2


def test_only_trees_that_share_are_packed(tiny_lm):
    lm = tiny_lm()
    chain = [Branch([4, 5]), Branch([6], 0)]
    assert lm.layout([chain, chain]).until is None
    assert lm.layout([chain, ROOT_AND_TWO]).until is not None


# -- the comparison before a stage --------------------------------------------------------------------------------

PROMPT_AND_TEXTS = [Branch(list(range(3, 43))), *(Branch([start + 7 * i for i in range(20)], 0) for start in range(6))]


def inner_fault(lm, size: float):
    """Packed rows whose states are off by a share ``size``, but for the last token of each branch."""
    real = lm.hidden

    def hidden(layout):
        states = real(layout)
        if layout.until is None:
            return states
        inside = torch.ones(states.shape[1], dtype=torch.bool)
        inside[[spot.start + spot.length - 1 for spot in layout.spots[0]]] = False
        return torch.where(inside[:, None], states * (1 + size), states)

    return hidden


@pytest.mark.parametrize(("size", "packs"), [(0.0, True), (0.01, False)])
def test_a_fault_of_a_few_hundredths_of_a_nat_ends_packing(tiny_lm, monkeypatch, caplog, size, packs):
    """It is compared at every token of the texts, not after the last one of each."""
    lm = tiny_lm()
    monkeypatch.setattr(lm, "hidden", inner_fault(lm, size))
    lm.check_packing(PROMPT_AND_TEXTS, None)
    assert lm.can_pack() is packs
    assert ("computes packed rows differently (by 0.0" in caplog.text) is not packs


def test_at_least_64_tokens_are_compared_or_the_whole_tree(tiny_lm, monkeypatch):
    """Texts of 20 tokens: four of the six; two texts of 3 tokens: both."""
    lm = tiny_lm()
    real, compared = parity.packing_gap, []
    monkeypatch.setattr(parity, "packing_gap", lambda lm, tree: compared.append(tree) or real(lm, tree))
    for tree in (PROMPT_AND_TEXTS, [Branch([5, 6]), Branch([7, 8, 9], 0), Branch([10, 11, 12], 0)]):
        lm._checked = False
        lm.check_packing(tree, None)
    assert [len(tree) - 1 for tree in compared] == [4, 2]
    lm._checked = False
    lm.check_packing([Branch([5, 6]), Branch([7], 0)], None)
    assert (len(compared), lm._checked) == (2, False)


@pytest.mark.parametrize("tree", [PROMPT_AND_TEXTS, TWO_LEVELS], ids=["flat", "deep"])
def test_the_packing_gap_is_that_of_every_token(tiny_lm, monkeypatch, tree):
    """By hand: log p of each token but the root's, in the packed row and in a row of its path."""
    lm = tiny_lm()
    monkeypatch.setattr(lm, "hidden", inner_fault(lm, 0.05))
    gaps = []
    with lm.using(None):
        for index in range(1, len(tree)):
            ids = tree[index].ids
            for end in range(len(ids)):
                before = path_ids(tree, tree[index].parent) + list(ids[:end])
                logits = lm.base(input_ids=torch.tensor([before])).logits[0, -1]
                spot = pack([tree]).spots[0][index]
                column = spot.before if end == 0 else spot.start + end - 1
                packed = lm.logits(lm.hidden(pack([tree]))[0, column])
                gaps.append((packed.log_softmax(-1) - logits.log_softmax(-1))[ids[end]].item())
        gap = parity.packing_gap(lm, tree)
    assert gap == pytest.approx(float(np.sqrt(np.mean(np.square(gaps)))), rel=1e-3)
    assert gap > 1e-3
