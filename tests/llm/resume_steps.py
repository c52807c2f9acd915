"""Kills a training with SIGKILL at every event, goes on, and compares the end with an undisturbed training.

`main`, run in a fork of `forks`, prints JSON. Every training is a fork of it in turn. Events are:
a batch starts, the optimizer has stepped, a batch has ended and its checkpoint (where one is due) is whole.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from tiny import build_book, reccot_row

from trackrec.distill.data import DistillData
from trackrec.distill.module import DistillModule
from trackrec.llm.backbone import LanguageModel
from trackrec.llm.loading import BackboneSettings, LoRASettings
from trackrec.llm.training.fit import fit_adapter
from trackrec.storage.parts import write_part

# Five texts in batches of 2, two batches a step: steps after the 2nd and the 3rd batch of an epoch.
TEXTS = [f"Enjoys Drama{' and War' * i}." for i in range(5)]
CASES: dict[str, dict[str, Any]] = {
    "epochs": {"max_epochs": 2},
    "max_steps": {"max_epochs": -1, "max_steps": 3},
}
# Optimizer steps between checkpoints.
EVERY = {"epochs": (1, 2), "max_steps": (1,)}


class Killer(Callback):
    """Counts events; dies at one of them."""

    def __init__(self, at: int | None) -> None:
        self.at, self.events = at, 0

    def hit(self) -> None:
        self.events += 1
        if self.events == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_batch_start(self, *_: Any) -> None:
        self.hit()

    def on_before_zero_grad(self, *_: Any) -> None:
        self.hit()

    def on_train_batch_end(self, *_: Any) -> None:
        self.hit()


def train(lm: LanguageModel, out: Path, at: int | None, every: int, trainer: dict[str, Any]) -> int:
    """One training; returns how many events it had."""
    # A stage's own randomness is all that may matter: what ran before it in the process differs after a crash.
    torch.manual_seed(os.getpid())
    rows = [reccot_row(f"h{i % 6}", i // 6, text=text) for i, text in enumerate(TEXTS)]
    write_part(out.parent / "texts", "reccots", rows)
    data = DistillData(lm, build_book(), out.parent / "texts", seed=3, batch_size=2)
    killer = Killer(at)
    args = {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1, "callbacks": [killer]}
    args |= {"accumulate_grad_batches": 2, **trainer}
    fit_adapter(DistillModule(lm, "g", lr=1e-2), data, args, out, seed=3, checkpoint_every=every)
    return killer.events


def fork(work: Callable[[], Any]) -> int:
    """Run it in a fork; returns what waitpid says."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def differing(
    lm: LanguageModel, root: Path, events: int, every: int, trainer: dict[str, Any]
) -> Iterator[tuple[int, str]]:
    """What differs from the undisturbed training after a death at each event."""
    whole, broken = root / "whole", root / "broken"
    for event in range(1, events + 1):
        shutil.rmtree(broken, ignore_errors=True)
        died = fork(partial(train, lm, broken, event, every, trainer))
        assert os.WIFSIGNALED(died), f"event {event} of {events} did not kill"
        assert fork(partial(train, lm, broken, None, every, trainer)) == 0
        for name in ("adapter/adapter_model.safetensors", "logs/metrics.csv"):
            if (broken / name).read_bytes() != (whole / name).read_bytes():
                yield event, name


def main(model: str, work_dir: Path) -> None:
    torch.set_num_threads(1)  # and no product before a fork: a pool of threads would not survive it
    logging.disable(logging.WARNING)
    lm = LanguageModel(
        BackboneSettings(model=model, dtype="float32", device="cpu", lora=LoRASettings(r=4, dropout=0.2))
    )
    lm.add_adapter("g", seed=1)
    report = {}
    for case, trainer in CASES.items():
        root = work_dir / case
        whole = root / "whole"

        def undisturbed(whole: Path = whole, trainer: dict[str, Any] = trainer) -> None:
            count = train(lm, whole, None, 1, trainer)
            (whole / "events").write_text(str(count))

        assert fork(undisturbed) == 0
        count = int((whole / "events").read_text())
        wrong = [[every, *bad] for every in EVERY[case] for bad in differing(lm, root, count, every, trainer)]
        report[case] = {
            "events": count,
            "wrong": wrong,
            "steps": len((whole / "logs" / "metrics.csv").read_text().splitlines()) - 1,
        }
    json.dump(report, sys.stdout)
