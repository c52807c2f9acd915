"""Scores and one training step under RLIMIT_AS: the allocator refuses the whole batch, and its pieces fit.

``python little_memory.py model_dir work_dir`` prints what is equal to the same work without a limit.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from narrow import STEP
from tiny import build_book, reccot_row

from trackrec.distill.data import DistillData
from trackrec.distill.module import DistillModule
from trackrec.llm.backbone import LanguageModel
from trackrec.llm.loading import BackboneSettings, LoRASettings
from trackrec.storage.parts import read_table, write_part
from trackrec.validator.prompt_tree import validator_tree
from trackrec.validator.score import score_reccots
from trackrec.validator.settings import ScoreSettings

LONG = "Enjoys Drama and War and Comedy. " * 60
ROOM = 160 << 20  # bytes; less than the masks and hidden states of the whole batches below


@contextmanager
def address_space(room: int) -> Iterator[None]:
    """Let the process grow by so many bytes and no more."""
    status = Path("/proc/self/status").read_text().splitlines()
    size = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmSize"))
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def scores(lm: LanguageModel, histories: int, out: Path) -> list[float]:
    book = build_book()
    entries = [
        (f"h{i:02d}", validator_tree(lm.chat, book, f"h{i % 6}", [(0, LONG)], [(f"s{i}", "i3", 1), (f"t{i}", "i4", 0)]))
        for i in range(histories)
    ]
    common: dict[str, Any] = {"source": "g", "round_": 1, "validator": "base", "shard_size": 99}
    score_reccots(lm, None, entries, out, reader=ScoreSettings(1_000_000).reader(), **common)
    return read_table(out, "scores").sort("history_id", "sample_id")["p_yes"].to_list()


def gradients(lm: LanguageModel, texts: int, root: Path) -> list[torch.Tensor]:
    rows = [reccot_row(f"h{i % 6}", i, text=LONG[: 1800 + i]) for i in range(texts)]
    write_part(root / str(texts), "reccots", rows)
    data, module = DistillData(lm, build_book(), root / str(texts)), DistillModule(lm, "g")
    data.setup("fit")
    module.trainer = type("Trainer", (), {"datamodule": data, **STEP})()  # type: ignore[assignment]
    module.log_step = lambda values, ids: None  # type: ignore[method-assign]
    module.zero_grad()
    module.training_step(data.collate(data.examples), 0).backward()
    return [parameter.grad.clone() for parameter in module._trained if parameter.grad is not None]


def main(model: str, work_dir: str) -> None:
    torch.set_num_threads(1)
    root = Path(work_dir)
    settings = BackboneSettings(model=model, dtype="float32", device="cpu", lora=LoRASettings(r=2))
    lm = LanguageModel(settings)
    lm.add_adapter("g", seed=0)
    scores(lm, 2, root / "first"), gradients(lm, 2, root)  # what is loaded and compiled at the first call
    with address_space(ROOM):
        narrow = scores(lm, 100, root / "narrow"), gradients(lm, 80, root)
    # After the narrow one: what the allocator once had it keeps.
    free = scores(lm, 100, root / "free"), gradients(lm, 80, root)
    torch.testing.assert_close(narrow[0], free[0], rtol=0, atol=1e-5)
    for one, other in zip(narrow[1], free[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
    sys.stdout.write("scores equal, gradients equal\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
