"""Fit one net on one arm and predict valid and test. Every choice is made on validation."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities.seed import isolate_rng
from numpy.typing import NDArray
from torch import Tensor, nn

from trackrec.ctr.features.features import CTRData
from trackrec.ctr.settings import CTRSettings
from trackrec.ctr.training.data import CTRDataModule
from trackrec.ctr.training.module import CTRModule
from trackrec.runtime.classes import load_class
from trackrec.runtime.errors import SettingError
from trackrec.runtime.trainer_errors import trainer_arguments, trainer_setup


@dataclass(frozen=True)
class ArmResult:
    """One net, one arm, one seed.

    Attributes:
        arm, seed: which one.
        predictions: split (``valid``, and ``test`` where there is one) -> P(label = 1), (N,) float32 in row order.
        valid_auc: best AUC on validation, of the weights kept.
        best_epoch: where it was reached, from 1.
        epochs: epochs trained.
        seconds: time of training and prediction.
        state_dict: the net's best weights, on CPU.
        facts: the connector's numbers over the texts of validation rows, such as the mean gate.
    """

    arm: str
    seed: int
    predictions: dict[str, NDArray[np.float32]]
    valid_auc: float
    best_epoch: int
    epochs: int
    seconds: float
    state_dict: dict[str, Tensor]
    facts: dict[str, float]


def fit_arm(settings: CTRSettings, data: CTRData, arm: str, seed: int, work_dir: Path) -> ArmResult:
    """Train on train rows, stop and choose weights by AUC on valid rows, predict valid and test rows.

    Test labels aren't read: prediction batches don't hold them. The global random state is left as it was.

    Args:
        settings: the net, its connector, and how it trains. The arguments of its ``trainer`` override the
            defaults here (20 epochs at most, no logger, no progress bar, no checkpoints); ``callbacks`` are added.
        data: features, with the arm attached.
        arm: ``none`` or an attached arm.
        seed: of weights, dropout and batches.
        work_dir: what the trainer writes, if anything.

    Raises:
        SettingError: train or valid rows have one class only, the arm has texts and there is no connector, or the
            trainer's arguments leave no validation.
    """
    for split in ("train", "valid"):
        labels = data.splits.get(split, {}).get("label", torch.zeros(0))
        if labels.unique().numel() < 2:
            raise SettingError(
                f"split {split!r} needs rows of both classes, got {len(labels)} rows of at most one class."
            )
    spec = data.spec_for(arm)
    if spec.text_dim and settings.connector is None:
        raise SettingError(f"ctr.connector must be set for arm {arm!r}, got null. Use MLPConnector, or arm none.")
    started = time.perf_counter()
    best = load_class("trackrec.callbacks.BestWeights")()
    with isolate_rng():
        torch.manual_seed(seed)
        connector: nn.Module | None = None

        def build_net() -> nn.Module:
            nonlocal connector
            connector = settings.connector(spec.text_dim) if spec.text_dim and settings.connector else None
            return settings.net(spec, connector)

        module = CTRModule(build_net, **settings.model)
        loaders = CTRDataModule(data, **{"arm": arm, "seed": seed, **settings.data})
        # Not strict: the trainer may be configured to skip the validation of some epochs.
        stopping = EarlyStopping("valid/auc", mode="max", patience=settings.patience, strict=False)
        trainer = trainer_of(settings.trainer(), work_dir, [best, stopping])
        with trainer_setup("ctr.trainer"):
            trainer.fit(module, datamodule=loaders)
        epochs = trainer.current_epoch
        best.restore(trainer, module.net)
        splits: list[str] = [name for name in ("valid", "test") if name in data.splits]
        predictions = {name: _predict(trainer, module, loaders, name) for name in splits}
        facts = connector_facts(module.net, connector, data, arm)
    return ArmResult(
        arm=arm,
        seed=seed,
        predictions=predictions,
        valid_auc=best.value,
        best_epoch=best.epoch,
        epochs=epochs,
        seconds=time.perf_counter() - started,
        state_dict=best.weights,
        facts=facts,
    )


def connector_facts(net: nn.Module, connector: nn.Module | None, data: CTRData, arm: str) -> dict[str, float]:
    """``connector.facts`` of the texts that validation rows refer to, each once; empty without such a method."""
    facts_of = getattr(connector, "facts", None)
    if facts_of is None:
        return {}
    net.eval()
    texts = data.arms[arm]
    rows = texts.rows[data.splits["valid"]["history"].unique().long()]
    with torch.inference_mode():
        return dict(facts_of(texts.matrix[rows[rows >= 0]].to(next(net.parameters()).device)))


def check_trainer(trainer_args: dict[str, Any]) -> None:
    """Check that every row will get a prediction.

    Raises:
        SettingError: an argument would limit the predictions too.
    """
    for name, allowed in (("fast_dev_run", False), ("limit_predict_batches", 1.0)):
        value = trainer_args.get(name)  # a 1 is one batch, a 1.0 is all
        if value is not None and (type(value) is not type(allowed) or value != allowed):
            raise SettingError(
                f"ctr.trainer.{name} must be {allowed}, got {value}: rows would be left without a prediction. For a "
                "short trial set ctr.trainer.limit_train_batches or max_epochs."
            )


def trainer_of(trainer_args: dict[str, Any], work_dir: Path, callbacks: list[pl.Callback]) -> pl.Trainer:
    """The trainer of a CTR net: the defaults of `fit_arm`, overridden by the configuration."""
    defaults: dict[str, Any] = {
        "max_epochs": 20,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": work_dir,
    }
    extra = trainer_args.get("callbacks") or []
    extra = list(extra) if isinstance(extra, list | tuple) else [extra]
    # A flag that the command line leaves unset arrives as None; it must not undo a default here.
    configured = {name: value for name, value in trainer_args.items() if value is not None}
    if configured.get("devices") == "auto":
        configured["devices"] = 1
    with trainer_arguments("ctr.trainer"):
        return pl.Trainer(**{**defaults, **configured, "callbacks": [*callbacks, *extra]})


def _predict(trainer: pl.Trainer, module: CTRModule, loaders: CTRDataModule, split: str) -> NDArray[np.float32]:
    batches = trainer.predict(module, dataloaders=loaders.predict_loader(split)) or []
    if not batches:
        return np.zeros(0, np.float32)
    return torch.cat([batch.float().cpu() for batch in batches]).numpy()  # type: ignore[union-attr]
