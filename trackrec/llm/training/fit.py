"""Builds the Trainer of a language-model training, and runs it from its last checkpoint to the end."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.seed import isolate_rng

from trackrec.llm.memory import MemoryLimitError, ran_out
from trackrec.llm.training.adapter_module import AdapterModule
from trackrec.llm.training.checkpoints import CHECKPOINTS, LAST, WholeFiles, merge_curves, usable_checkpoint
from trackrec.llm.training.devices import placed, process_count
from trackrec.runtime.classes import load_class
from trackrec.runtime.errors import SettingError
from trackrec.runtime.trainer_errors import trainer_arguments, trainer_setup
from trackrec.storage.atomic import stable_hash

log = logging.getLogger(__name__)

LOGS = "logs"
HOLD_KEYS = {"align": "align.data.hold"}
"""By stage, the key that holds examples back for its validation; of the others it is ``loop.hold``."""


def stage_trainer(
    trainer_args: dict[str, Any],
    out_dir: Path,
    module: AdapterModule,
    checkpoint_every: int = 20,
    monitors: Sequence[Callback] = (),
) -> Trainer:
    """A Trainer that logs every step to ``out_dir/logs`` and checkpoints to ``out_dir/checkpoints`` by default.

    A step of a language model takes seconds, and the report draws its curves from these logs.

    Raises:
        SettingError: the arguments ask for another device than that of the module's model.
    """
    args = dict(trainer_args)
    callbacks = [*_as_list(args.pop("callbacks", None)), *monitors]
    plugins = _as_list(args.pop("plugins", None))
    if args.get("enable_checkpointing") is not False and not any(isinstance(c, Checkpoint) for c in callbacks):
        step_checkpoint = load_class("trackrec.callbacks.StepCheckpoint")
        callbacks.append(step_checkpoint(out_dir / CHECKPOINTS / LAST, checkpoint_every))
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(WholeFiles())
    if not any(isinstance(plugin, ClusterEnvironment) for plugin in plugins):
        plugins.append(LightningEnvironment())  # however this process was started: see docs/scale.md
    if process_count(args, f"{module.stage}.trainer") == 1:
        args = {**placed(args, module.lm.device, f"{module.stage}.trainer"), "strategy": "auto"}
    else:
        args["strategy"] = "ddp"
    if args.get("logger") in (None, True):
        args["logger"] = CSVLogger(out_dir / LOGS, name="", flush_logs_every_n_steps=1)
    if args.get("log_every_n_steps") is None:
        args["log_every_n_steps"] = 1
    args.setdefault("enable_model_summary", False)
    args["default_root_dir"] = args.get("default_root_dir") or str(out_dir / LOGS)
    with trainer_arguments(f"{module.stage}.trainer"):
        return Trainer(callbacks=callbacks, plugins=plugins, **args)


def check_nothing_is_watched(stage: str, trainer_args: Mapping[str, Any]) -> None:
    """Check that no callback waits for a validation, where there is none.

    Raises:
        SettingError: a callback of the trainer does.
    """
    for callback in _as_list(trainer_args.get("callbacks")):
        if str(monitored := getattr(callback, "monitor", None)).startswith("valid/"):
            raise SettingError(
                f"{stage}.trainer.callbacks: {type(callback).__name__} watches {monitored!r}, but nothing is held back "
                f"for a validation: set {HOLD_KEYS.get(stage, 'loop.hold')} above 0, such as 0.1."
            )


def _as_list(values: Any) -> list[Any]:
    """A trainer argument that may be one value, several or None."""
    return list(values) if isinstance(values, list | tuple) else [] if values is None else [values]


def fit_adapter(
    module: AdapterModule,
    data: LightningDataModule,
    trainer_args: dict[str, Any],
    out_dir: Path,
    seed: int = 0,
    checkpoint_every: int = 20,
    monitors: Sequence[Callback] = (),
) -> Trainer:
    """Train to the end, from the last checkpoint if there is one, then save the adapter.

    Args:
        module: the module to train.
        data: its batches. If its ``held`` isn't empty, there are validations: as the trainer's ``val_check_interval``
            says, by default at the end of each epoch, or as often as the module's ``check_interval`` says.
        trainer_args: Lightning's trainer arguments.
        out_dir: the stage directory.
        seed: seed of dropout. Random numbers drawn earlier have no effect, and the process's random state is restored
            at the end.
        checkpoint_every: optimizer steps between checkpoints.
        monitors: callbacks that watch the training, added to those of ``trainer_args``.

    Raises:
        DivergedError: an adapter weight is not finite at the end.
        CheckpointError: see `usable_checkpoint`.
        MemoryLimitError: out of memory for a reason other than the batch size.
        SettingError: a callback watches a validation, and there is none.
    """
    if not getattr(data, "held", None):  # Lightning warns of a validation without a batch
        check_nothing_is_watched(module.stage, trainer_args)
        trainer_args = {**trainer_args, "limit_val_batches": 0}
    elif trainer_args.get("val_check_interval") is None and trainer_args.get("check_val_every_n_epoch", 1) is not None:
        trainer_args = {**trainer_args, "val_check_interval": module.check_interval}
    resume = usable_checkpoint(out_dir / CHECKPOINTS, module.trained_names)
    if resume:
        log.info("resuming from %s", resume)
    with isolate_rng():
        trainer = stage_trainer(trainer_args, out_dir, module, checkpoint_every, monitors)
        torch.manual_seed(int(stable_hash("training", seed, module.adapter, trainer.global_rank, digits=15), 16))
        try:
            with trainer_setup(f"{module.stage}.trainer"):
                trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True if resume else None)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, MemoryLimitError) or not ran_out(error):
                raise
            raise MemoryLimitError(
                f"{module.stage}: the adapter and its optimizer don't fit into memory next to the model ({error}). "
                "Lower backbone.lora.r, or choose backbone.quantize: nf4."
            ) from error
    module.check_weights()
    if trainer.is_global_zero:
        module.lm.save_adapter(out_dir / "adapter", module.adapter)
        merge_curves(out_dir / LOGS)
    return trainer
