"""The three trainings of an adapter, each on a few rows, and their settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny import reccot_row

from trackrec.align.data import AlignData
from trackrec.align.module import SoftmaxDPOModule
from trackrec.distill.data import DistillData
from trackrec.distill.module import DistillModule
from trackrec.llm.training.adapter_module import AdapterModule
from trackrec.llm.training.fit import stage_trainer
from trackrec.storage.parts import write_part
from trackrec.validator.data import RecTuneData
from trackrec.validator.module import RecTuningModule

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1}
TEXTS = ["Enjoys Drama.", "Avoids Horror; likes War and Comedy.", "Mostly a guess, from 9 films.", "A generous viewer."]


def distill_stage(lm: Any, book: Any, root: Path) -> tuple[AdapterModule, Any]:
    rows = [reccot_row(f"h{i}", text=TEXTS[i % 4]) for i in range(6)]
    write_part(root / "texts", "reccots", rows)
    return DistillModule(lm, "g", lr=1e-2), DistillData(lm, book, root / "texts", batch_size=2)


def align_stage(lm: Any, book: Any, root: Path) -> tuple[AdapterModule, Any]:
    rows = [
        reccot_row(f"h{i}", draw, source="g1", token_ids=[20 + 7 * i + draw, 30 + draw, 1]) | {"round": 1}
        for i in range(6)
        for draw in range(4)
    ]
    write_part(root / "draws", "reccots", rows)
    common = {"source": "g1", "round": 1, "chosen_reward": 0.9}
    sets = [
        {"history_id": f"h{i}", "chosen": i % 4, "rejected": [d for d in range(4) if d != i % 4][: 1 + i % 3]} | common
        for i in range(6)
    ]
    write_part(
        root / "sets", "preferences", [{**row, "rejected_rewards": [0.1] * len(row["rejected"])} for row in sets]
    )
    module, data = (
        SoftmaxDPOModule(lm, "g", lr=1e-2),
        AlignData(lm, book, [(root / "sets", root / "draws")], batch_size=2),
    )
    rows = stage_trainer(QUIET, root / "reference", module).predict(module, datamodule=data)
    data.set_references([row for batch in rows for row in batch])
    return module, data


def rec_tune_stage(lm: Any, book: Any, root: Path) -> tuple[AdapterModule, Any]:
    targets = {f"h{i}": [(f"s{i}{t}", f"i{(i + 5 * t) % 20}", (i + t) % 2) for t in range(1 + i % 3)] for i in range(6)}
    texts = {f"h{i}": TEXTS[i % 4] for i in range(6)}
    return RecTuningModule(lm, "g", lr=1e-2), RecTuneData(lm, book, texts, targets, batch_size=2)
