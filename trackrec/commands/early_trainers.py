"""Builds every trainer once before the first stage, and looks at what its arguments refer to."""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from trackrec.ctr.training.train import trainer_of
from trackrec.llm.training.devices import process_count
from trackrec.llm.training.fit import stage_trainer
from trackrec.runtime.errors import SettingError

if TYPE_CHECKING:
    import torch

# What the module of each section logs; `tests/commands/test_early_trainers.py` compares it with trainings.
_ADAPTER = frozenset({"loss", "step", "valid/loss"})
LOGGED: Mapping[str, frozenset[str]] = {
    "distill": _ADAPTER | {"tokens"},
    "align": _ADAPTER
    | {"chosen_reward", "rejected_reward", "margin", "accuracy", "chosen_log_ratio", "chosen_tokens"}
    | {"rejected_tokens", "saturated", "negatives", "kl", "valid/margin", "valid/accuracy", "valid/chosen_reward"},
    "rec_tune": _ADAPTER | {"accuracy", "rows", "text_margin", "valid/auc", "valid/acc"},
    "ctr": frozenset({"train/loss", "valid/log_loss", "valid/auc", "valid/acc"}),
}
_OURS = ("lightning.", "trackrec.")
# Arguments that end a training before it has seen its rows, with the values that don't.
_SHORTER: Mapping[str, tuple[Any, ...]] = {
    "limit_train_batches": (None, 1.0),
    "overfit_batches": (None, 0, 0.0),
    "max_steps": (None, -1),
    "max_time": (None,),
}


def check_adapter_trainer(
    section: str, trainer_args: dict[str, Any], device: torch.device, hooks: Sequence[Any], say: Callable[[str], None]
) -> None:
    """Check the trainer of a language-model section by building it.

    Args:
        section: ``distill``, ``align`` or ``rec_tune``.
        trainer_args: Lightning's trainer arguments.
        device: of the section's model.
        hooks: the run's monitors, of which those that are callbacks take part in the training.
        say: prints one line.

    Raises:
        SettingError: naming the key.
    """
    key = f"{section}.trainer"
    check_whole(trainer_args, key)
    check_accelerator(trainer_args, key)
    check_monitored(section, trainer_args, hooks)
    module: Any = SimpleNamespace(stage=section, lm=SimpleNamespace(device=device))
    with tempfile.TemporaryDirectory() as folder:
        stage_trainer(trainer_args, Path(folder), module)
    tell_shorter(trainer_args, key, say)


def check_ctr_trainer(trainer_args: dict[str, Any], say: Callable[[str], None]) -> None:
    """Check the trainer of the CTR nets by building it.

    Raises:
        SettingError: naming the key.
    """
    key = "ctr.trainer"
    check_whole(trainer_args, key)
    if _is_none(trainer_args.get("limit_val_batches")):
        raise SettingError(
            f"{key}.limit_val_batches must be above 0, got 0: weights are chosen by the validation AUC. Leave it out."
        )
    every, epochs = trainer_args.get("check_val_every_n_epoch") or 1, trainer_args.get("max_epochs") or 20
    if every > epochs > 0 and trainer_args.get("val_check_interval") is None:
        raise SettingError(
            f"{key}.check_val_every_n_epoch must be at most {key}.max_epochs ({epochs}), got {every}: weights are "
            "chosen by the validation AUC. Lower it, or leave it out."
        )
    check_accelerator(trainer_args, key)
    check_monitored("ctr", trainer_args, ())
    with tempfile.TemporaryDirectory() as folder:
        trainer_of(trainer_args, Path(folder), [])
    tell_shorter(trainer_args, key, say)


def check_accelerator(trainer_args: Mapping[str, Any], key: str) -> None:
    """Check that this machine has the device that a trainer asks for by its kind.

    Raises:
        SettingError: it hasn't.
    """
    import torch

    wanted = trainer_args.get("accelerator")
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    has["gpu"] = has["cuda"] or has["mps"]
    if isinstance(wanted, str) and not has.get(wanted, True):
        raise SettingError(
            f"{key}.accelerator is {wanted}, but torch finds no such device on this machine. Set it to cpu or auto, or "
            "install a torch that has it."
        )
    process_count(trainer_args, key)


def check_whole(trainer_args: Mapping[str, Any], key: str) -> None:
    """Check that a training is one: a stage that ran through is marked as done, and later stages read it.

    Raises:
        SettingError: ``fast_dev_run`` is set, or there would be no step at all.
    """
    if fast := trainer_args.get("fast_dev_run"):
        raise SettingError(
            f"{key}.fast_dev_run must be false, got {fast}: it ends after a few batches, and the stage would count as "
            f"done. For a short trial set {key}.limit_train_batches: without it, the stage is made again."
        )
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if _is_none(trainer_args.get(name)):
            raise SettingError(f"{key}.{name} must not be 0: nothing would be trained. Raise it, or leave it out.")


def tell_shorter(trainer_args: Mapping[str, Any], key: str, say: Callable[[str], None]) -> None:
    """Say where arguments end a training early: its stage is done under these, and made again without them."""
    given = [f"{name} {trainer_args[name]}" for name, whole in _SHORTER.items() if trainer_args.get(name) not in whole]
    if given:
        say(f"{key}: {', '.join(given)}. Its stages can end early and count as done; without, they are made again.")


def check_monitored(section: str, trainer_args: Mapping[str, Any], hooks: Sequence[Any]) -> None:
    """Check that callbacks watch values that the section logs. A callback of somebody else may log others.

    Args:
        section: of the configuration.
        trainer_args: Lightning's trainer arguments.
        hooks: the run's monitors.

    Raises:
        SettingError: a callback watches what nobody logs.
    """
    given = trainer_args.get("callbacks") or []
    callbacks = list(given) if isinstance(given, list | tuple) else [given]
    if any(not type(one).__module__.startswith(_OURS) for one in (*callbacks, *hooks)):
        return
    names = set(LOGGED[section])
    rates = any(type(one).__name__ == "LearningRateMonitor" for one in callbacks)
    for callback in callbacks:
        monitored = getattr(callback, "monitor", None)
        counted = {"epoch", "step"} if type(callback).__name__ == "ModelCheckpoint" else set()
        if not isinstance(monitored, str) or monitored in names | counted or (rates and monitored.startswith("lr-")):
            continue
        near = difflib.get_close_matches(monitored, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise SettingError(
            f"{section}.trainer.callbacks: {type(callback).__name__} watches {monitored!r}, which {section} never "
            f"logs. It logs {', '.join(sorted(names))}.{hint}"
        )


def _is_none(value: Any) -> bool:
    """Whether a limit is 0, as a number of batches or as a share."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == 0
