"""Several processes of one training: who sees what, what they agree on, and that together they are as one."""

from __future__ import annotations

import csv
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Fork
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from trackrec.llm.training.batches import BatchLoader, EmptyShare
from trackrec.llm.training.devices import device_list, process_count
from trackrec.llm.training.distributed import all_gather, process_rank, sum_over_processes
from trackrec.llm.training.microbatch import StepGradients, StepSums, add_up, empty_share_of

# -- shares of batches --------------------------------------------------------------------------------------------


def loader(examples: list[int], batch_size: int, rank: int = 0, processes: int = 1, **more: Any) -> BatchLoader[int]:
    return BatchLoader(
        examples, [n % 7 + 1 for n in examples], batch_size, list, 3, rank=rank, processes=processes, **more
    )


@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 4), st.booleans())
def test_shares_make_up_the_batches_of_one_process(count, batch_size, processes, shuffle):
    """Two epochs; every process makes as many steps, and a batch too small for all has blanks."""
    examples = list(range(count))
    alone = loader(examples, batch_size * processes, shuffle=shuffle)
    together = [loader(examples, batch_size, rank, processes, shuffle=shuffle) for rank in range(processes)]
    for _ in range(2):
        whole, shares = list(alone), [list(one) for one in together]
        assert {len(one) for one in shares} == {len(whole)} == {len(alone)}
        for step, batch in enumerate(whole):
            own = [share[step] for share in shares]
            seen = [example for one in own if not isinstance(one, EmptyShare) for example in one]
            assert sorted(seen) == sorted(batch)
            blanks = [one for one in own if isinstance(one, EmptyShare)]
            assert len(blanks) == max(0, processes - len(batch))
            assert all(one.batch == batch[:1] for one in blanks)
        assert {str(one.state_dict()) for one in together} == {str(alone.state_dict())}


def sums(loss: float, units: int) -> StepSums:
    return StepSums(torch.tensor(loss), units, {"accuracy": (1.0, 2.0)}, {"rows": 3.0})


def test_one_process_agrees_with_itself():
    one = sums(2.0, 4)
    assert (process_rank(), all_gather("a"), sum_over_processes(one)) == ((0, 1), ["a"], one)


def test_a_blank_counts_as_nothing():
    step = StepGradients(sums(5.0, 3), [torch.ones(2), None])
    blank = empty_share_of(step)
    assert (blank.sums.units, float(blank.sums.loss), blank.sums.totals) == (0, 0.0, {"rows": 0.0})
    both = add_up([step, blank])
    assert (both.sums.units, float(both.sums.loss), both.sums.means) == (3, 5.0, {"accuracy": (1.0, 2.0)})
    assert both.gradients[0].tolist() == [1.0, 1.0]  # type: ignore[union-attr]
    assert both.gradients[1] is None


# -- what may be asked for ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ({}, 1),
        ({"devices": "auto", "strategy": "auto"}, 1),
        ({"devices": 1, "strategy": "ddp"}, 1),
        ({"devices": "2", "accelerator": "cpu"}, 2),
        ({"devices": 3, "accelerator": "cpu", "strategy": "ddp", "num_nodes": 1}, 3),
        ({"devices": [0], "accelerator": "gpu"}, 1),
    ],
)
def test_processes_of_a_training(given, count):
    assert process_count(given, "align.trainer") == count


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"num_nodes": 2}, r"align\.trainer\.num_nodes must be 1, got 2"),
        ({"strategy": "fsdp", "devices": 2}, r"align\.trainer\.strategy must be auto or ddp, got fsdp"),
        ({"strategy": object()}, r"align\.trainer\.strategy must be auto or ddp, got object"),
        ({"devices": 0}, r"align\.trainer\.devices must be auto, a number of devices or a list"),
        ({"devices": -1}, r"got -1"),
        ({"devices": "all"}, r"got 'all'"),
        ({"devices": 99, "accelerator": "gpu"}, r"asks for GPUs .*98\], this machine has \d+"),
    ],
)
def test_what_a_training_cannot_have_is_named(given, words):
    with pytest.raises(ValueError, match=words):
        process_count(given, "align.trainer")


def test_devices_that_are_named():
    assert device_list("1,3") == device_list([1, 3]) == [1, 3]
    assert device_list(2) is device_list("2") is device_list("auto") is None


# -- two processes ------------------------------------------------------------------------------------------------


def train(
    model: Path,
    work: Path,
    stage: str,
    batch_size: int,
    processes: int,
    dropout: float = 0.0,
    kill_at: int = 0,
    accumulate: int = 1,
):
    """One training; returns the exit codes."""
    work.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    running = []
    for rank in range(processes):
        env = dict(os.environ)
        if processes > 1:
            env |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        given = (str(model), work, stage, batch_size, processes, dropout, kill_at, accumulate)
        running.append(Fork("two_processes:main", *given, env=env))
    errors = [one.communicate(timeout=280)[1] for one in running]
    codes = [one.returncode for one in running]
    assert codes == [-signal.SIGKILL if kill_at else 0] * processes, errors
    return work / "out"


def curve(out: Path) -> list[dict[str, float]]:
    with (out / "logs" / "metrics.csv").open() as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "accumulate", "steps"), [("distill", 1, 8), ("align", 1, 4), ("rec_tune", 1, 4), ("distill", 3, 4)]
)
def test_two_processes_are_as_one_with_twice_the_batch(tiny_model_dir, tmp_path, stage, accumulate, steps):
    """Curve and adapter; seven texts in batches of 2 leave a batch for one process alone, and a window of its own."""
    batch_size = 1 if stage == "distill" else 2
    one = train(tiny_model_dir, tmp_path / "one", stage, 2 * batch_size, 1, accumulate=accumulate)
    two = train(tiny_model_dir, tmp_path / "two", stage, batch_size, 2, accumulate=accumulate)
    alone, together = curve(one), curve(two)
    assert len(alone) == steps
    for due, found in zip(alone, together, strict=True):
        assert found == pytest.approx(due, rel=1e-3, abs=1e-4)
    assert alone[0]["loss"] != pytest.approx(alone[-1]["loss"], rel=1e-4)
    adapters = [load_file(out / "adapter" / "adapter_model.safetensors") for out in (one, two)]
    for name, weight in adapters[0].items():
        torch.testing.assert_close(adapters[1][name], weight, rtol=0, atol=2e-4)
    assert [path.name for path in (two / "logs").iterdir()] == ["metrics.csv"]


@pytest.mark.slow
def test_two_processes_validate_as_one(tiny_model_dir, tmp_path):
    one = train(tiny_model_dir, tmp_path / "one", "held", 4, 1)
    two = train(tiny_model_dir, tmp_path / "two", "held", 2, 2)
    alone, together = ([row for row in curve(out) if "valid/auc" in row] for out in (one, two))
    assert len(alone) == len(together) == 2  # a row per epoch
    names = ("valid/auc", "valid/acc", "valid/loss")
    for due, found in zip(alone, together, strict=True):
        assert [found[name] for name in names] == pytest.approx([due[name] for name in names], rel=1e-3, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [2, 4])  # the ends of the two epochs
def test_a_training_that_is_killed_in_a_validation_repeats_it(tiny_model_dir, tmp_path, steps):
    whole = train(tiny_model_dir, tmp_path / "whole", "held", 4, 1)
    train(tiny_model_dir, tmp_path / "cut", "held", 4, 1, kill_at=steps)
    cut = train(tiny_model_dir, tmp_path / "cut", "held", 4, 1)
    assert curve(cut) == curve(whole)
    name = Path("adapter") / "adapter_model.safetensors"
    assert (cut / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
def test_two_processes_that_are_killed_go_on_to_the_bit(tiny_model_dir, tmp_path):
    """LoRA dropout: each process has random numbers of its own, and goes on with them."""
    whole = train(tiny_model_dir, tmp_path / "whole", "distill", 1, 2, dropout=0.3)
    train(tiny_model_dir, tmp_path / "cut", "distill", 1, 2, dropout=0.3, kill_at=3)
    cut = train(tiny_model_dir, tmp_path / "cut", "distill", 1, 2, dropout=0.3)
    name = Path("adapter") / "adapter_model.safetensors"
    assert (cut / name).read_bytes() == (whole / name).read_bytes()
    assert curve(cut) == curve(whole)
