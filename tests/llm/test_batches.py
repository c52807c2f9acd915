"""Batches are a function of seed, epoch and index, and a saved place is a place."""

from __future__ import annotations

import itertools

import pytest

from trackrec.llm.training.batches import BatchLoader


def loader(
    seed: int = 0, size: int = 4, count: int = 101, shuffle: bool = True, tokens: int | None = None, processes: int = 1
) -> BatchLoader:
    lengths = [(7 * index) % 50 + 1 for index in range(count)]
    return BatchLoader(list(range(count)), lengths, size, list, seed, shuffle, processes=processes, batch_tokens=tokens)


def test_batches_depend_on_seed_and_epoch_alone():
    first, second = loader(), loader()
    epochs = [list(first), list(first)]
    assert epochs == [list(second), list(second)]
    assert epochs == [second.plan(0), second.plan(1)]
    assert epochs[0] != epochs[1]
    assert list(loader(seed=1)) != epochs[0]


@pytest.mark.parametrize("count", [1, 3, 4, 64, 101])
def test_every_example_once_an_epoch(count):
    batches = loader(count=count)
    for _ in range(2):
        seen = list(batches)
        assert sorted(itertools.chain.from_iterable(seen)) == list(range(count))
        assert len(seen) == len(batches) == -(-count // 4)


def test_a_batch_holds_examples_of_like_length():
    batches = loader()
    spread = [max(lengths) - min(lengths) for lengths in ([batches.lengths[i] for i in b] for b in batches.plan(0))]
    order = list(range(101))
    unsorted = [order[start : start + 4] for start in range(0, 101, 4)]
    plain = [max(v) - min(v) for v in ([batches.lengths[i] for i in b] for b in unsorted)]
    assert sum(spread) < sum(plain) / 2


@pytest.mark.parametrize("done", [0, 1, 5, 25, 26, 30])
def test_a_restored_loader_goes_on_where_the_other_stopped(done):
    """26 batches an epoch: `done` reaches into the second one."""
    whole = loader()
    stream = [batch for _ in range(3) for batch in whole]
    cut = loader()
    seen = [batch for _, batch in zip(range(done), itertools.chain(cut, cut), strict=False)]
    later = loader()
    later.load_state_dict(cut.state_dict())
    rest = [batch for _ in range(2) for batch in later]
    assert seen + rest == stream[: done + len(rest)]


def test_the_place_is_saved_before_the_last_batch_is_handed_out():
    """Lightning doesn't ask past the last batch of an epoch."""
    batches = loader(count=8)
    stream = iter(batches)
    next(stream)
    assert batches.state_dict() == {"epoch": 0, "next": 1}
    next(stream)
    assert batches.state_dict() == {"epoch": 1, "next": 0}


def test_without_shuffling_the_order_is_kept():
    assert list(loader(count=6, shuffle=False)) == [[0, 1, 2, 3], [4, 5]]


def test_a_bad_batch_size_is_named():
    with pytest.raises(ValueError, match=r"data\.batch_size must be at least 1, got 0"):
        loader(size=0)


@pytest.mark.parametrize("tokens", [1, 30, 120, 10_000])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_token_budget_holds_and_every_epoch_is_as_long(tokens, processes):
    batches = loader(tokens=tokens, processes=processes)
    for epoch in range(4):
        plan = batches.plan(epoch)
        assert len(plan) == len(batches)
        assert sorted(itertools.chain.from_iterable(plan)) == list(range(101))
        for batch in plan:
            longest = max(batches.lengths[index] for index in batch)
            assert len(batch) == 1 or len(batch) * longest <= tokens * processes
    if len(batches) > 1:
        assert batches.plan(0) != batches.plan(1)


def test_a_token_budget_pads_little_and_wastes_little():
    """Batches of 120 tokens from texts of 1 to 50: bounds on both, by the order's own lengths."""
    batches = loader(tokens=120)
    held = [[batches.lengths[index] for index in batch] for batch in batches.plan(0)]
    padded = sum(len(lengths) * max(lengths) for lengths in held)
    assert sum(map(sum, held)) / padded > 0.9
    assert len(held) < 1.5 * sum(map(sum, held)) / 120


@pytest.mark.parametrize("done", [0, 1, 9, 25])
def test_a_restored_loader_goes_on_with_a_token_budget(done):
    whole = loader(tokens=120)
    stream = [batch for _ in range(3) for batch in whole]
    cut = loader(tokens=120)
    seen = [batch for _, batch in zip(range(done), itertools.chain(cut, cut), strict=False)]
    later = loader(tokens=120)
    later.load_state_dict(cut.state_dict())
    rest = [batch for _ in range(2) for batch in later]
    assert seen + rest == stream[: done + len(rest)]


def test_a_bad_token_budget_is_named():
    with pytest.raises(ValueError, match=r"data\.batch_tokens must be at least 1, got 0"):
        loader(tokens=0)
