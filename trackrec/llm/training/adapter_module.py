"""The Lightning module that the three language-model trainings share: it trains one adapter."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from torchmetrics import Metric

from trackrec.llm.memory import FittingBatches, halve_list
from trackrec.llm.training.batches import EmptyShare
from trackrec.llm.training.distributed import all_gather, process_rank, sum_over_processes
from trackrec.llm.training.microbatch import (
    GivenGradients,
    StepGradients,
    StepSums,
    add_up,
    differentiate,
    empty_share_of,
    sum_up,
)
from trackrec.llm.training.optimizer import OptimizerSettings
from trackrec.runtime.errors import DivergedError, SettingError

if TYPE_CHECKING:
    from trackrec.llm.backbone import LanguageModel
    from trackrec.llm.loading import BackboneSettings

_SHOWN_IDS = 8  # in the error of a diverged step


class AdapterModule(LightningModule):
    """Trains one adapter of a language model; checkpoints hold only that adapter, not the base.

    Args:
        lm: the model; ``adapter`` is activated and becomes the only trainable part.
        adapter: name of the adapter.
        lr: peak learning rate.
        optimizer: the other optimizer settings.
    """

    stage: ClassVar[str]  # the stage, and its section of the config
    check_interval: ClassVar[float] = 1.0  # epochs between validations where the trainer's val_check_interval is null
    # What to do when a single example doesn't fit into memory.
    oom_hint: ClassVar[str] = "Lower prompts.generator.max_history, or set backbone.gradient_checkpointing: true."

    def __init__(self, lm: LanguageModel, adapter: str, lr: float, optimizer: OptimizerSettings | None) -> None:
        super().__init__()
        self.check({"lr": lr}, lm.settings)
        self.lm, self.adapter, self.lr = lm, adapter, lr
        self.optimizer_settings = optimizer or OptimizerSettings()
        self._trained = lm.train_only(adapter)
        lm.base.train()  # as Lightning expects; dropout of the base was set to 0 when it was loaded
        self.backbone = lm.base  # registered, so that Lightning moves it to the device and counts it
        # DDP need not synchronise frozen tensors.
        tensors = [*self.named_parameters(), *self.named_buffers()]
        self._ddp_params_and_buffers_to_ignore = [name for name, tensor in tensors if not tensor.requires_grad]
        self.strict_loading = False
        self.last_values: dict[str, float] = {}  # of the last step; restored from a checkpoint
        self._restored: dict[str, Any] = {}
        self._window: StepSums | None = None  # what the batches of this optimizer step add up to so far
        self._window_step = -1

    @classmethod
    def check(cls, values: Mapping[str, Any], backbone: BackboneSettings) -> None:  # noqa: ARG003 - subclasses read it
        """Check arguments before a model is loaded.

        Args:
            values: arguments by name; missing ones have their defaults.
            backbone: settings of the model to train.

        Raises:
            SettingError: an argument is invalid; names the key.
        """
        if (lr := values.get("lr", 1.0)) <= 0:
            raise SettingError(f"{cls.stage}.model.lr must be above 0, got {lr}.")

    @abc.abstractmethod
    def sums(self, batch: Any) -> StepSums:
        """The sums of a batch for a step, with the autograd graph of the loss."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """The mean loss of the batch over all processes, computed in micro-batches if memory is too small.

        With gradient accumulation the gradient is the mean over all units (sets, rows, texts) of the optimizer step,
        however many batches it has and however they are filled.
        """
        empty = isinstance(batch, EmptyShare)
        batch = batch.batch if empty else batch
        step = add_up(self.memory.run(batch, self._differentiate))
        step = empty_share_of(step) if empty else step
        total = sum_over_processes(step.sums)
        window = self._with_earlier_batches(total)
        means = {name: value / max(count, 1) for name, (value, count) in window.means.items()}
        self.log_step({"loss": window.loss / window.units, **means, **window.totals}, batch.ids)
        if earlier := window.units - total.units:
            for parameter in self._trained:  # so far the mean over the earlier batches alone
                if parameter.grad is not None:
                    parameter.grad.mul_(earlier / window.units)
        # DDP averages gradients over the processes, and Lightning divides them by the number of accumulated batches.
        accumulated = self._trainer.accumulate_grad_batches if self._trainer is not None else 1
        factor = process_rank().size * accumulated / window.units
        loss = total.loss / total.units
        gradients = [None if gradient is None else gradient * factor for gradient in step.gradients]
        # A batch that doesn't fit into memory needs several backward passes. They are done here, not by
        # `manual_backward`, so that automatic optimization stays: Lightning accumulates, clips, scales float16, steps
        # the schedule and counts steps for checkpoints and callbacks, as for any module.
        tied: torch.Tensor = GivenGradients.apply(loss, gradients, *self._trained)  # type: ignore[no-untyped-call]
        return tied

    def _with_earlier_batches(self, total: StepSums) -> StepSums:
        """The sums of the optimizer step's batches up to this one."""
        begins = self._trainer is None or self.global_step != self._window_step
        self._window_step = self.global_step
        self._window = total if begins or self._window is None else sum_up([self._window, total])
        return self._window

    def log_validation(self, metrics: Mapping[str, Metric]) -> None:
        """Log metrics over the whole validation, as ``valid/<name>``. Every process calls it at every batch.

        They are filed under the number of optimizer steps behind the weights, as the values of a training step are.
        """
        self.log("step", float(self.global_step), on_step=False, on_epoch=True, batch_size=1)
        for name, metric in metrics.items():
            self.log(f"valid/{name}", metric, on_step=False, on_epoch=True, prog_bar=name == "loss", batch_size=1)

    def _differentiate(self, batch: Any) -> StepGradients:
        plugin = self._trainer.precision_plugin if self._trainer is not None else None
        scaler = getattr(plugin, "scaler", None)
        return differentiate(self.sums(batch), self._trained, scaler.get_scale() if scaler is not None else 1.0)

    @cached_property
    def memory(self) -> FittingBatches[Any]:
        """Splits batches that don't fit into memory."""
        key = f"{self.stage}.data.batch_size"
        then = f"The gradient is that of the whole batch, so the effective {key} is unchanged."
        return FittingBatches(self.stage, then, self.oom_hint, lambda batch: batch.layout.tokens, self._halves)

    def _halves(self, batch: Any) -> tuple[Any, Any] | None:
        halves = halve_list(batch.examples)
        if halves is None:
            return None
        collate = self.trainer.datamodule.collate  # type: ignore[attr-defined]
        return collate(list(halves[0])), collate(list(halves[1]))

    def cpu(self) -> AdapterModule:
        """Stay on the device: Lightning moves a module to the CPU at the end, but the next stage needs it here."""
        return self

    def configure_optimizers(self) -> Any:
        """The optimizer, with a learning-rate schedule over the actual number of optimizer steps."""
        optimizer = self.optimizer_settings.build(self._trained, self.lr)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.optimizer_settings.factor(step, total)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def check_weights(self) -> None:
        """Check that every trained weight is finite.

        Raises:
            DivergedError: a weight isn't.
        """
        if any(not torch.isfinite(parameter).all() for parameter in self._trained):
            raise DivergedError(
                f"adapter {self.adapter!r} has weights that are not finite at step {self.global_step}: lower "
                f"{self.stage}.model.lr (now {self.lr}) or set {self.stage}.trainer.gradient_clip_val"
            )

    @property
    def trained_names(self) -> list[str]:
        """Names of the trainable weights in this module."""
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remove the frozen base; add the random state and the step's values, which aren't in any logger yet.

        Raises:
            DivergedError: a weight is not finite. The previous checkpoint is kept.
        """
        self.check_weights()
        names = set(self.trained_names)
        checkpoint["state_dict"] = {key: value for key, value in checkpoint["state_dict"].items() if key in names}
        row = {**self.last_values, "epoch": self.trainer.current_epoch}
        checkpoint["trackrec"] = {"rng": all_gather(_rng_state(self.lm.device)), "row": row}
        for logger in self.trainer.loggers:
            logger.save()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the random state and the loader's position until training starts."""
        self._restored = {**checkpoint["trackrec"], "loader": checkpoint["loops"]["fit_loop"]["state_dict"]}
        self.last_values = {name: value for name, value in self._restored["row"].items() if name != "epoch"}

    def on_train_start(self) -> None:
        """Restore the random state and the position of the next batch of the interrupted run."""
        if not self._restored:
            return
        _set_rng_state(self._restored["rng"][process_rank().rank], self.lm.device)
        # Lightning restores a loader only when it sets the loader up; estimated_stepping_batches did that earlier.
        if states := self._restored["loader"].get("combined_loader"):
            loader: Any = self.trainer.train_dataloader
            loader.load_state_dict(states[0])
        # Log the checkpoint's step again: the crash may have happened before the loggers wrote it.
        step = self.trainer.global_step - 1
        if (step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            for logger in self.trainer.loggers:
                logger.log_metrics(self._restored["row"], step)

    def log_step(self, values: dict[str, Any], ids: Sequence[str]) -> None:
        """Log the values of an optimizer step; with gradient accumulation those of its batches up to this one.

        Args:
            values: ``loss`` and other values to log.
            ids: ids of the batch's histories or samples, for errors.

        Raises:
            DivergedError: the loss is not finite. No optimizer step is taken; the last checkpoint is kept.
        """
        if not torch.isfinite(values["loss"]):
            ids = [example_id for process_ids in all_gather(ids) for example_id in process_ids]
            shown = ", ".join(ids[:_SHOWN_IDS])
            if len(ids) > _SHOWN_IDS:
                shown += f" and {len(ids) - _SHOWN_IDS} more"
            raise DivergedError(
                f"{type(self).__name__}: the loss is {values['loss'].item()} at step {self.global_step}, on {shown}. "
                f"Lower {self.stage}.model.lr (now {self.lr}) or set {self.stage}.trainer.gradient_clip_val; the last "
                "checkpoint is kept."
            )
        # In float32, as a logger writes them, so that a resumed training logs the same value.
        self.last_values = {
            name: torch.tensor(float(value), dtype=torch.float32).item() for name, value in values.items()
        }
        for name, value in self.last_values.items():
            self.log(name, value, prog_bar=name == "loss", batch_size=len(ids), on_step=True)


def _rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    """States of the random generators that dropout may use."""
    state = {"cpu": torch.get_rng_state()}
    return {**state, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def _set_rng_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
