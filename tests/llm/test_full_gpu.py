"""What only a GPU can show: its random numbers over a resume, and its own allocator saying no."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from tiny import reccot_row

from trackrec.distill.data import DistillData
from trackrec.distill.module import DistillModule
from trackrec.llm.loading import LoRASettings
from trackrec.llm.training.fit import fit_adapter
from trackrec.storage.parts import read_table, write_part
from trackrec.validator.prompt_tree import validator_tree
from trackrec.validator.score import score_reccots
from trackrec.validator.settings import ScoreSettings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:.*deterministic"),
]
LONG = "Enjoys Drama and War and Comedy. " * 60
ROOM = 150 << 20


class PowerCut(Callback):
    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 2:
            raise ConnectionAbortedError("the power is gone")


def train(lm: Any, book: Any, out: Path, *callbacks: Callback, texts: int = 8, batch_size: int = 2) -> Any:
    write_part(out / "texts", "reccots", [reccot_row(f"h{i % 6}", i, text=LONG[: 900 + i]) for i in range(texts)])
    module, data = DistillModule(lm, "g", lr=1e-3), DistillData(lm, book, out / "texts", batch_size=batch_size)
    args = {"accelerator": "gpu", "enable_progress_bar": False, "log_every_n_steps": 1, "callbacks": list(callbacks)}
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        fit_adapter(module, data, args | {"max_epochs": 1}, out, checkpoint_every=1)
    finally:
        torch.use_deterministic_algorithms(False)
    return [parameter.detach().clone() for parameter in module._trained]


def test_dropout_on_the_gpu_goes_on_after_a_cut(tiny_lm, tiny_book, tmp_path):
    build = {"adapters": ["g"], "lora": LoRASettings(r=4, dropout=0.3), "device": "cuda"}
    whole = train(tiny_lm(**build), tiny_book, tmp_path / "whole")
    with pytest.raises(ConnectionAbortedError):
        train(tiny_lm(**build), tiny_book, tmp_path / "cut", PowerCut())
    torch.cuda.manual_seed(99)
    cut = train(tiny_lm(**build), tiny_book, tmp_path / "cut")
    for one, other in zip(whole, cut, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-7)


@pytest.fixture
def little_memory() -> Iterator[Any]:
    """``little_memory()`` leaves the process little more GPU memory than it has now."""

    def narrow() -> None:
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + ROOM) / total)

    yield narrow
    torch.cuda.set_per_process_memory_fraction(1.0)


def scores(lm: Any, book: Any, out: Path) -> list[float]:
    entries = [
        (f"h{i:03d}", validator_tree(lm.chat, book, f"h{i % 6}", [(0, LONG)], [(f"s{i}", "i3", 1), (f"t{i}", "i4", 0)]))
        for i in range(200)
    ]
    common: dict[str, Any] = {"source": "g", "round_": 1, "validator": "base", "shard_size": 999}
    score_reccots(lm, None, entries, out, reader=ScoreSettings(10_000_000).reader(), **common)
    return read_table(out, "scores").sort("history_id", "sample_id")["p_yes"].to_list()


def test_a_full_gpu_is_survived_in_scoring_and_training(tiny_lm, tiny_book, tmp_path, little_memory, caplog):
    build = {"adapters": ["g"], "lora": LoRASettings(r=4), "device": "cuda"}
    free = scores(tiny_lm(**build), tiny_book, tmp_path / "free")
    adapter = train(tiny_lm(**build), tiny_book, tmp_path / "free", texts=200, batch_size=200)
    lm = tiny_lm(**build)
    little_memory()
    narrow = scores(lm, tiny_book, tmp_path / "narrow")
    assert narrow == pytest.approx(free, abs=1e-4)
    assert "scoring: a batch of" in caplog.text
    assert "CUDA out of memory" in caplog.text
    pieces = train(lm, tiny_book, tmp_path / "narrow", texts=200, batch_size=200)
    assert "distill: a batch of" in caplog.text
    for one, other in zip(adapter, pieces, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
