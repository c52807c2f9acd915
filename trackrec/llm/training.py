"""What the three language-model trainings share: the optimizer, small checkpoints, and running a Trainer."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn

if TYPE_CHECKING:
    from trackrec.llm.backbone import LanguageModel

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
_SHOWN_IDS = 8


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW and the course of its learning rate over the optimizer steps of the stage.

    Attributes:
        name: ``adamw``, or bitsandbytes' ``adamw8bit`` / ``paged_adamw8bit`` (GPU).
        weight_decay: decoupled weight decay.
        beta1: decay of the gradient's mean.
        beta2: decay of the gradient's square.
        warmup: share of the optimizer steps in which the rate rises from 0.
        schedule: how the rate falls to 0 afterwards, or ``constant``.
    """

    name: Literal["adamw", "adamw8bit", "paged_adamw8bit"] = "adamw"
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    warmup: float = 0.03
    schedule: Literal["cosine", "linear", "constant"] = "cosine"

    def build(self, parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        """The optimizer over exactly these parameters."""
        parameters, betas = list(parameters), (self.beta1, self.beta2)
        on_gpu = all(parameter.is_cuda for parameter in parameters)
        if self.name != "adamw" and not on_gpu:
            log.warning("optimizer %s needs a GPU: plain adamw instead", self.name)
        if self.name == "adamw" or not on_gpu:
            return torch.optim.AdamW(parameters, lr=lr, betas=betas, weight_decay=self.weight_decay)
        import bitsandbytes as bnb

        kind = bnb.optim.AdamW8bit if self.name == "adamw8bit" else bnb.optim.PagedAdamW8bit
        return kind(parameters, lr=lr, betas=betas, weight_decay=self.weight_decay)

    def factor(self, step: int, total_steps: int) -> float:
        """The learning rate at an optimizer step as a share of its peak."""
        warmup = math.ceil(self.warmup * total_steps)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        return {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[self.schedule]


class AdapterModule(LightningModule):
    """Trains one adapter of a language model; its checkpoints hold that adapter and nothing of the base.

    Args:
        lm: the model; ``adapter`` is put in force and made the only thing that trains.
        adapter: its name.
        lr: peak learning rate.
        optimizer: the rest of the optimizer.
    """

    def __init__(self, lm: LanguageModel, adapter: str, lr: float, optimizer: OptimizerSettings | None) -> None:
        super().__init__()
        if lr <= 0:
            raise ValueError(f"model.lr must be above 0, got {lr}.")
        self.lm, self.adapter, self.lr = lm, adapter, lr
        self.optimizer_settings = optimizer or OptimizerSettings()
        self._trained = lm.train_only(adapter)
        lm.base.train()  # as Lightning expects; the base itself has no dropout that would act
        self.backbone = lm.base  # registered, so that Lightning places and counts it
        self.strict_loading = False
        self._rng_state: torch.Tensor | None = None
        self._loader_states: list[dict[str, Any]] = []

    def cpu(self) -> AdapterModule:
        """Stay: Lightning moves a module to the CPU when a trainer ends, but the next stage wants it where it is."""
        return self

    def configure_optimizers(self) -> Any:
        """AdamW whose rate falls over the optimizer steps that will really be made."""
        optimizer = self.optimizer_settings.build(self._trained, self.lr)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.optimizer_settings.factor(step, total)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen base out; put the random state in."""
        names = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {key: value for key, value in checkpoint["state_dict"].items() if key in names}
        checkpoint["trackrec_rng"] = torch.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember the random state and the loader's place until training starts."""
        self._rng_state = checkpoint["trackrec_rng"]
        self._loader_states = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])

    def on_train_start(self) -> None:
        """Go on with the random numbers that the cut-off run would have drawn."""
        if self._rng_state is not None:
            torch.set_rng_state(self._rng_state.cpu().to(torch.uint8))
        # Lightning restores a loader only when it sets it up, and estimated_stepping_batches did so before.
        if self._loader_states:
            loader: Any = self.trainer.train_dataloader
            loader.load_state_dict(self._loader_states[0])

    def log_step(self, values: dict[str, Any], ids: Sequence[str]) -> None:
        """Log values of this step; the loss also shows on the progress bar.

        Args:
            values: ``loss`` and what else is worth a curve.
            ids: of the batch's histories or samples.

        Raises:
            FloatingPointError: the loss is no finite number. No step is made of it; the last checkpoint stays.
        """
        if not torch.isfinite(values["loss"]):
            shown = ", ".join(ids[:_SHOWN_IDS]) + (
                f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
            )
            raise FloatingPointError(
                f"{type(self).__name__}: the loss is {values['loss'].item()} at step {self.global_step}, on {shown}. "
                f"Lower model.lr (now {self.lr}) or set trainer.gradient_clip_val; the last checkpoint is kept."
            )
        for name, value in values.items():
            self.log(name, value, prog_bar=name == "loss", batch_size=len(ids), on_step=True)


def stage_trainer(trainer_args: dict[str, Any], out_dir: Path, checkpoint_every: int = 20) -> Trainer:
    """A Trainer that logs to ``out_dir/logs`` and checkpoints to ``out_dir/checkpoints``, unless told otherwise."""
    args = dict(trainer_args)
    callbacks = list(args.pop("callbacks", None) or [])
    if args.get("enable_checkpointing") is not False and not any(isinstance(c, ModelCheckpoint) for c in callbacks):
        callbacks.append(
            ModelCheckpoint(
                dirpath=out_dir / CHECKPOINTS,
                filename="last",
                every_n_train_steps=checkpoint_every,
                enable_version_counter=False,
            )
        )
    if args.get("logger") in (None, True):
        args["logger"] = CSVLogger(out_dir / "logs", name="")
    args.setdefault("enable_model_summary", False)
    args["default_root_dir"] = args.get("default_root_dir") or str(out_dir / "logs")
    return Trainer(callbacks=callbacks, **args)


def fit_adapter(
    module: AdapterModule, data: LightningDataModule, trainer_args: dict[str, Any], out_dir: Path
) -> Trainer:
    """Train to the end, from the last checkpoint where an earlier try left one, then save the adapter.

    Raises:
        FloatingPointError: an adapter weight is not finite at the end.
    """
    trainer = stage_trainer(trainer_args, out_dir)
    last = out_dir / CHECKPOINTS / "last.ckpt"
    resume = str(last) if last.exists() else None
    if resume:
        log.info("going on from %s", last)
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True if resume else None)
    if any(not torch.isfinite(parameter).all() for parameter in module._trained):
        raise FloatingPointError(
            f"adapter {module.adapter!r} has weights that are not finite after training: lower model.lr "
            f"(now {module.lr}) or set trainer.gradient_clip_val"
        )
    module.lm.save_adapter(out_dir / "adapter", module.adapter)
    return trainer
