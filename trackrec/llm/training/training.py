"""What the three language-model trainings share: the optimizer, small checkpoints, and running a Trainer."""

from __future__ import annotations

import abc
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from trackrec.llm.memory import FittingBatches, MemoryLimitError, halve_list, ran_out
from trackrec.llm.training.batches import EmptyShare
from trackrec.llm.training.checkpoints import CHECKPOINTS, StepCheckpoint, WholeFiles, merge_curves, usable_checkpoint
from trackrec.llm.training.devices import placed, process_count
from trackrec.llm.training.distributed import all_gather, process_rank, sum_over_processes
from trackrec.llm.training.microbatch import (
    GivenGradients,
    StepGradients,
    StepSums,
    add_up,
    differentiate,
    empty_share_of,
)
from trackrec.runtime.errors import DivergedError, SettingError
from trackrec.runtime.trainer_errors import trainer_arguments, trainer_setup
from trackrec.storage.atomic import stable_hash

if TYPE_CHECKING:
    from trackrec.llm.backbone import LanguageModel
    from trackrec.llm.loading import BackboneSettings

log = logging.getLogger(__name__)

LOGS = "logs"
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

    def __post_init__(self) -> None:
        for name in ("warmup", "beta1", "beta2"):
            value = getattr(self, name)
            if not 0 <= value <= 1 or (value == 1 and name != "warmup"):
                allowed = "a share of the steps, in [0, 1]" if name == "warmup" else "in [0, 1)"
                raise SettingError(f"optimizer.{name} must be {allowed}, got {value}.")

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

    stage: ClassVar[str]  # whose section of the config sets it up
    alone: ClassVar[str] = "Lower prompts.max_history, or set backbone.gradient_checkpointing: true."

    def __init__(self, lm: LanguageModel, adapter: str, lr: float, optimizer: OptimizerSettings | None) -> None:
        super().__init__()
        self.check({"lr": lr}, lm.settings)
        self.lm, self.adapter, self.lr = lm, adapter, lr
        self.optimizer_settings = optimizer or OptimizerSettings()
        self._trained = lm.train_only(adapter)
        lm.base.train()  # as Lightning expects; the base's own dropout was set to 0 when it was loaded
        self.backbone = lm.base  # registered, so that Lightning places and counts it
        # What no process changes needs no agreement between them.
        tensors = [*self.named_parameters(), *self.named_buffers()]
        self._ddp_params_and_buffers_to_ignore = [name for name, tensor in tensors if not tensor.requires_grad]
        self.strict_loading = False
        self.last_values: dict[str, float] = {}  # of the last step, with what a checkpoint brought back
        self._restored: dict[str, Any] = {}
        self._window: list[tuple[dict[str, float], int]] = []
        self._window_step = -1

    @classmethod
    def check(cls, values: Mapping[str, Any], backbone: BackboneSettings) -> None:  # noqa: ARG003 - subclasses read it
        """Whether arguments can be used, before a model is loaded.

        Args:
            values: arguments by name; those that are missing have their defaults.
            backbone: of the model that would train.

        Raises:
            SettingError: naming the key.
        """
        if (lr := values.get("lr", 1.0)) <= 0:
            raise SettingError(f"{cls.stage}.model.lr must be above 0, got {lr}.")

    @abc.abstractmethod
    def sums(self, batch: Any) -> StepSums:
        """What a batch adds to a step, with the graph of its loss."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """The mean loss of the batch, all processes' shares together; in pieces where the memory is too small."""
        blank, batch = isinstance(batch, EmptyShare), batch.batch if isinstance(batch, EmptyShare) else batch
        step = add_up(self.memory.run(batch, self._differentiated))
        step = empty_share_of(step) if blank else step
        whole = sum_over_processes(step.sums)
        loss = whole.loss / whole.units
        means = {name: total / max(count, 1) for name, (total, count) in whole.means.items()}
        self.log_step({"loss": loss, **means, **whole.totals}, batch.ids)
        # Lightning takes the mean over the processes.
        share = process_rank().size / whole.units
        gradients = [None if one is None else one * share for one in step.gradients]
        return GivenGradients.apply(loss, gradients, *self._trained)

    def _differentiated(self, batch: Any) -> StepGradients:
        plugin = self._trainer.precision_plugin if self._trainer is not None else None
        scaler = getattr(plugin, "scaler", None)
        return differentiate(self.sums(batch), self._trained, scaler.get_scale() if scaler is not None else 1.0)

    @cached_property
    def memory(self) -> FittingBatches[Any]:
        """Halves batches that don't fit."""
        key = f"{self.stage}.data.batch_size"
        then = f"Their sums are those of the whole, so {key} means what it did."
        return FittingBatches(self.stage, then, self.alone, lambda batch: batch.layout.tokens, self._halves)

    def _halves(self, batch: Any) -> tuple[Any, Any] | None:
        halves = halve_list(batch.examples)
        if halves is None:
            return None
        collate = self.trainer.datamodule.collate  # type: ignore[attr-defined]
        return collate(list(halves[0])), collate(list(halves[1]))

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

    def check_weights(self) -> None:
        """Whether every weight that trains is finite.

        Raises:
            DivergedError: one isn't.
        """
        if any(not torch.isfinite(parameter).all() for parameter in self._trained):
            raise DivergedError(
                f"adapter {self.adapter!r} has weights that are not finite at step {self.global_step}: lower "
                f"{self.stage}.model.lr (now {self.lr}) or set {self.stage}.trainer.gradient_clip_val"
            )

    @property
    def trained_names(self) -> list[str]:
        """Names, in this module, of the weights that train."""
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen base out; put in the random state and the step's values, which no logger has seen yet.

        Raises:
            DivergedError: a weight is not finite. The checkpoint before stays.
        """
        self.check_weights()
        names = set(self.trained_names)
        checkpoint["state_dict"] = {key: value for key, value in checkpoint["state_dict"].items() if key in names}
        row = {**self.last_values, "epoch": self.trainer.current_epoch}
        checkpoint["trackrec"] = {"rng": all_gather(_rng_state(self.lm.device)), "row": row}
        for logger in self.trainer.loggers:
            logger.save()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember the random state and the loader's place until training starts."""
        self._restored = {**checkpoint["trackrec"], "loader": checkpoint["loops"]["fit_loop"]["state_dict"]}
        self.last_values = {name: value for name, value in self._restored["row"].items() if name != "epoch"}

    def on_train_start(self) -> None:
        """Go on with the random numbers and the batch that the cut-off run would have had next."""
        if not self._restored:
            return
        _set_rng_state(self._restored["rng"][process_rank().rank], self.lm.device)
        # Lightning restores a loader only when it sets it up, and estimated_stepping_batches did so before.
        if states := self._restored["loader"].get("combined_loader"):
            loader: Any = self.trainer.train_dataloader
            loader.load_state_dict(states[0])
        self._log_again()

    def _log_again(self) -> None:
        """The row of the step after which the checkpoint was made: a crash may have come before its logger."""
        step = self.trainer.global_step - 1
        if (step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            for logger in self.trainer.loggers:
                logger.log_metrics(self._restored["row"], step)

    def log_step(self, values: dict[str, Any], ids: Sequence[str]) -> None:
        """Log the means of an optimizer step: with accumulated gradients over all of its batches, not the last alone.

        Args:
            values: ``loss`` and what else is worth a curve.
            ids: of the batch's histories or samples; a batch weighs as much as it has.

        Raises:
            DivergedError: the loss is no finite number. No step is made of it; the last checkpoint stays.
        """
        if not torch.isfinite(values["loss"]):
            ids = [one for some in all_gather(ids) for one in some]
            shown = ", ".join(ids[:_SHOWN_IDS]) + (
                f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
            )
            raise DivergedError(
                f"{type(self).__name__}: the loss is {values['loss'].item()} at step {self.global_step}, on {shown}. "
                f"Lower {self.stage}.model.lr (now {self.lr}) or set {self.stage}.trainer.gradient_clip_val; the last "
                "checkpoint is kept."
            )
        if self.global_step != self._window_step:
            self._window, self._window_step = [], self.global_step
        self._window.append(({name: float(value) for name, value in values.items()}, len(ids)))
        total = sum(size for _, size in self._window)
        means = {name: sum(seen[name] * size for seen, size in self._window) / total for name in values}
        # As a logger writes them, so that a resumed training can say the same.
        self.last_values = {name: torch.tensor(mean, dtype=torch.float32).item() for name, mean in means.items()}
        for name, mean in self.last_values.items():
            self.log(name, mean, prog_bar=name == "loss", batch_size=len(ids), on_step=True)


def _rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    """States of the generators that dropout may draw from."""
    state = {"cpu": torch.get_rng_state()}
    return {**state, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def _set_rng_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def stage_trainer(
    trainer_args: dict[str, Any], out_dir: Path, module: AdapterModule, checkpoint_every: int = 20
) -> Trainer:
    """A Trainer that logs every step to ``out_dir/logs`` and checkpoints to ``out_dir/checkpoints``, unless told
    otherwise. A step of a language model takes seconds, and the report draws its curves from these logs.

    Raises:
        SettingError: the arguments ask for another device than the one on which the module's model lies.
    """
    args = dict(trainer_args)
    callbacks, plugins = _several(args.pop("callbacks", None)), _several(args.pop("plugins", None))
    if args.get("enable_checkpointing") is not False and not any(isinstance(c, Checkpoint) for c in callbacks):
        callbacks.append(StepCheckpoint(out_dir / CHECKPOINTS, checkpoint_every))
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(WholeFiles())
    if not any(isinstance(plugin, ClusterEnvironment) for plugin in plugins):
        plugins.append(LightningEnvironment())  # whatever started this process: see docs/scale.md
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


def _several(values: Any) -> list[Any]:
    """A trainer argument that may be one, several or none."""
    return list(values) if isinstance(values, list | tuple) else [] if values is None else [values]


def fit_adapter(
    module: AdapterModule,
    data: LightningDataModule,
    trainer_args: dict[str, Any],
    out_dir: Path,
    seed: int = 0,
    checkpoint_every: int = 20,
) -> Trainer:
    """Train to the end, from the last checkpoint where an earlier try left one, then save the adapter.

    Args:
        module: trains.
        data: its batches.
        trainer_args: Lightning's.
        out_dir: the stage directory.
        seed: of dropout; what else the process drew before doesn't matter, and its random state is left as it was.
        checkpoint_every: optimizer steps between checkpoints.

    Raises:
        DivergedError: an adapter weight is not finite at the end.
        CheckpointError: see `usable_checkpoint`.
        MemoryLimitError: memory is full for another reason than the size of a batch.
    """
    resume = usable_checkpoint(out_dir / CHECKPOINTS, module.trained_names)
    if resume:
        log.info("going on from %s", resume)
    with isolate_rng():
        trainer = stage_trainer(trainer_args, out_dir, module, checkpoint_every)
        torch.manual_seed(int(stable_hash("training", seed, module.adapter, trainer.global_rank, digits=15), 16))
        try:
            with trainer_setup(f"{module.stage}.trainer"):
                trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True if resume else None)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, MemoryLimitError) or not ran_out(error):
                raise
            raise MemoryLimitError(
                f"{module.stage}: the adapter and its optimizer don't fit into memory beside the model ({error}). "
                "Lower backbone.lora.r, or choose backbone.quantize: nf4."
            ) from error
    module.check_weights()
    if trainer.is_global_zero:
        module.lm.save_adapter(out_dir / "adapter", module.adapter)
        merge_curves(out_dir / LOGS)
    return trainer
