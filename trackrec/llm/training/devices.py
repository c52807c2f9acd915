"""Number of processes and devices in the trainer's settings, and checks of both."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trackrec.runtime.errors import SettingError

if TYPE_CHECKING:
    import torch

LOCAL_RANK = "LOCAL_RANK"  # environment variable with the rank of a process that Lightning didn't start itself


def process_count(trainer_args: Mapping[str, Any], key: str) -> int:
    """Number of training processes: one per device. ``devices: auto`` is one device, however many the machine has.

    Args:
        trainer_args: Lightning's trainer arguments.
        key: config key of these arguments, for errors.

    Raises:
        SettingError: more than one machine, a strategy other than ddp, more GPUs than the machine has, or ``devices``
            that is none of the allowed forms.
    """
    devices = trainer_args.get("devices")
    nodes = trainer_args.get("num_nodes") or 1
    strategy = trainer_args.get("strategy") or "auto"
    if nodes != 1:
        raise SettingError(f"{key}.num_nodes must be 1, got {nodes}: a run uses the devices of one machine.")
    if not isinstance(strategy, str) or strategy not in ("auto", "ddp"):
        shown = strategy if isinstance(strategy, str) else type(strategy).__name__
        raise SettingError(f"{key}.strategy must be auto or ddp, got {shown}. docs/scale.md says why.")
    named = device_list(devices)
    count = len(named) if named else 1 if devices in (None, "auto") else devices
    if isinstance(count, str) and count.isdigit():
        count = int(count)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise SettingError(f"{key}.devices must be auto, a number of devices or a list of them, got {devices!r}.")
    if count > 1:
        _check_gpus(str(trainer_args.get("accelerator") or "auto"), named or list(range(count)), key)
    return count


def device_list(devices: Any) -> list[int] | None:
    """Device indices given as a list: ``[1, 3]`` or ``"1,3"``; None if only their number is given."""
    if isinstance(devices, str) and "," in devices:
        return [int(part) for part in devices.split(",") if part.strip()]
    return list(devices) if isinstance(devices, list | tuple) else None


def placed(trainer_args: Mapping[str, Any], device: torch.device, key: str) -> dict[str, Any]:
    """The arguments for a trainer of one process that keeps the model on its device.

    Args:
        trainer_args: Lightning's trainer arguments; ``accelerator: auto`` uses the model's device.
        device: the model's device.
        key: config key of these arguments, for errors.

    Raises:
        SettingError: the arguments ask for another device.
    """
    accelerator = "gpu" if device.type == "cuda" else device.type
    wanted = str(trainer_args.get("accelerator") or "auto")
    named = device_list(trainer_args.get("devices"))
    if wanted not in ("auto", accelerator, device.type):
        raise SettingError(
            f"{key}.accelerator is {wanted}, but the model is on {device}: set {key}.accelerator to auto, or "
            f"backbone.device to {'cuda' if wanted in ('gpu', 'cuda') else wanted}."
        )
    if accelerator != "gpu":
        return {**trainer_args, "accelerator": accelerator, "devices": 1}
    import torch

    index = torch.cuda.current_device() if device.index is None else device.index
    if named not in (None, [index]):
        raise SettingError(
            f"{key}.devices is {named}, but the model is on GPU {index}: leave it out, or set backbone.device to "
            f"cuda:{named[0]}."
        )
    return {**trainer_args, "accelerator": "gpu", "devices": [index]}


def _check_gpus(accelerator: str, wanted: list[int], key: str) -> None:
    import torch

    if accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available()):
        count = torch.cuda.device_count()
        if max(wanted) >= count:
            raise SettingError(f"{key}.devices asks for GPUs {wanted}, this machine has {count}.")


def choose_gpu(devices: Any) -> None:
    """Make the GPU of this process's rank the current one, before a model is loaded to ``cuda``."""
    import torch

    rank = int(os.environ[LOCAL_RANK])
    if torch.cuda.is_available():
        torch.cuda.set_device((device_list(devices) or list(range(rank + 1)))[rank])
