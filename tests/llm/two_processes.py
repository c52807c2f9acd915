"""One training, alone or as one of two processes.

`main`, run in forks of `forks`, trains a stage of `adapter_stages` and leaves adapter and curve under ``work/out``.
With two processes LOCAL_RANK and MASTER_PORT are in the environment. ``kill_at`` > 0: SIGKILL after so many steps, in
each; of the stage ``held`` in the validation that follows them.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
from adapter_stages import align_stage, distill_stage, rec_tune_stage
from lightning.pytorch import Callback
from tiny import build_book, reccot_row

from trackrec.align.module import write_references
from trackrec.llm.backbone import LanguageModel
from trackrec.llm.loading import BackboneSettings, LoRASettings
from trackrec.llm.training.fit import fit_adapter
from trackrec.storage.parts import write_part


def held_stage(lm: Any, book: Any, root: Path) -> tuple[Any, Any]:
    """Rec-Tuning with a validation on five histories: batches of four leave one for one process alone."""
    module, data = rec_tune_stage(lm, book, root)
    data.held = {f"h{i}": [(f"v{i}{t}", f"i{(3 * i + t) % 20}", (i + t) % 2) for t in range(2)] for i in range(5)}
    return module, data


STAGES = {"distill": distill_stage, "align": align_stage, "rec_tune": rec_tune_stage, "held": held_stage}


class PowerCut(Callback):
    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.after:
            os.kill(os.getpid(), signal.SIGKILL)


class PowerCutInValidation(Callback):
    def __init__(self, after: int) -> None:
        self.after = after

    def on_validation_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.after:
            os.kill(os.getpid(), signal.SIGKILL)


def main(
    model: str,
    work: Path,
    stage: str,
    batch_size: int,
    processes: int,
    dropout: float,
    kill_at: int,
    accumulate: int,
) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ.get("LOCAL_RANK", 0))
    torch.manual_seed(100 + rank)  # what else a process has drawn must not matter
    lm = LanguageModel(
        BackboneSettings(model=model, dtype="float32", device="cpu", lora=LoRASettings(r=4, dropout=dropout))
    )
    lm.add_adapter("g", seed=1)
    own = work / f"tables-{rank}"  # the tables of the tests: each process writes and reads its own
    module, data = STAGES[stage](lm, build_book(), own)
    if stage == "distill":  # one more text: the last batch of two is a batch of one
        rows = [reccot_row(f"h{i % 6}", i // 6, text=f"Enjoys Drama{' and War' * i}.") for i in range(7)]
        write_part(own / "texts", "reccots", rows)
    data.batch_size, module.lr = batch_size, 1e-3
    trainer = {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1, "max_epochs": 2}
    trainer["accumulate_grad_batches"] = accumulate
    trainer |= {"devices": processes, "strategy": "ddp"} if processes > 1 else {}
    out = work / "out"
    if stage == "align":
        data.setup("fit")
        write_references(module, data, dict(trainer), out)
    if kill_at:
        trainer["callbacks"] = [PowerCutInValidation(kill_at) if stage == "held" else PowerCut(kill_at)]
    fit_adapter(module, data, trainer, out, seed=3, checkpoint_every=1)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
