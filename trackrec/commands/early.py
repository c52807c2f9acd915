"""What can be known before the first stage is checked before the first stage, since the later ones come hours later.

Only the stages that this command would run are looked at, no weights are loaded, and nothing is asked of the network.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from trackrec.commands.early_models import backbone_device, check_backbone, check_encoder
from trackrec.commands.early_trainers import check_adapter_trainer, check_ctr_trainer
from trackrec.commands.plan import model_shape
from trackrec.llm.loading import BackboneSettings
from trackrec.llm.memory_plan.footprint import adapter_weights
from trackrec.llm.memory_plan.shapes import SHAPES
from trackrec.recipe.experiment import Experiment
from trackrec.recipe.graph import Graph
from trackrec.recipe.names import CTR, EMBED
from trackrec.recipe.stage import RecipeStage
from trackrec.runtime.errors import SettingError, TrackRecError

_ADAPTER_BYTES, _CHECKPOINT_BYTES = 4, 12  # per weight of an adapter: float32; with the two means of AdamW


@dataclass(frozen=True)
class _Check:
    """One thing to look at, and the stages that need it."""

    stages: Collection[str]
    look: Callable[[], None]


def check_early(exp: Experiment, graph: Graph, chosen: Collection[str]) -> None:
    """Check what the chosen stages need.

    A fault is none where every stage that it concerns is up to date: a finished run can be shown on a machine without
    the GPU that trained it.

    Args:
        exp: the run.
        graph: its stages.
        chosen: names of the stages that may run.

    Raises:
        TrackRecError: the first fault, naming the key.
    """
    for check in _checks(exp, graph, chosen):
        if not check.stages:
            continue
        try:
            check.look()
        except TrackRecError:
            if to_run(exp, check.stages):
                raise
    check_disk(exp, graph, chosen)


def to_run(exp: Experiment, names: Collection[str]) -> set[str]:
    """Those of some stages that aren't up to date."""
    return {stage.name for stage in exp.pipeline.stages if stage.name in names and not exp.pipeline.is_current(stage)}


def _checks(exp: Experiment, graph: Graph, chosen: Collection[str]) -> list[_Check]:
    stages = [stage for stage in graph.stages if stage.name in chosen]
    checks = [_Check([stage.name for stage in stages if "teacher" in stage.keys], exp.teacher.check)]
    for key, settings in (("backbone", exp.backbone), ("validator_backbone", exp.validator_backbone)):
        if settings is not None:
            answers = key == "validator_backbone" or exp.validator_backbone is None
            reading = [stage.name for stage in stages if key in stage.keys]
            checks.append(_Check(reading, partial(check_backbone, settings, key, answers)))
    for section in exp.trainings:
        training = [stage.name for stage in stages if stage.section == section]
        checks.append(_Check(training, partial(_check_training, exp, section)))
    names = {stage.name for stage in stages}
    checks.append(_Check({EMBED} & names, partial(check_encoder, exp.embed)))
    checks.append(_Check({CTR} & names, lambda: check_ctr_trainer(exp.ctr.trainer(), exp.say)))
    return checks


def _check_training(exp: Experiment, section: str) -> None:
    own = exp.validator_backbone if section == "rec_tune" else None
    device = backbone_device(own or exp.backbone, "validator_backbone" if own else "backbone")
    check_adapter_trainer(section, exp.trainings[section].trainer(), device, exp.monitors, exp.say)


def check_disk(exp: Experiment, graph: Graph, chosen: Collection[str]) -> None:
    """Check that the disk has room for the adapters of the stages to come, and for a checkpoint of one.

    The least that is written: texts, vectors and tables come on top, and depend on the data.

    Raises:
        SettingError: it plainly hasn't.
    """
    training = [stage for stage in graph.stages if stage.name in chosen and stage.section]
    folder = next(path for path in (exp.pipeline.run_dir, *exp.pipeline.run_dir.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    adapters, size = _adapters(exp, training)
    if size > free:
        left = to_run(exp, [stage.name for stage in training])
        adapters, size = _adapters(exp, [stage for stage in training if stage.name in left])
    if size > free:
        raise SettingError(
            f"run_dir: the stages to come write at least {size / 2**30:,.1f} GiB ({adapters} adapters, a checkpoint), "
            f"and the disk of {folder} has {free / 2**30:,.1f} GiB left. Make room, set run_dir to a folder on another "
            "disk, or lower backbone.lora.r."
        )


def _adapters(exp: Experiment, training: Sequence[RecipeStage]) -> tuple[int, int]:
    """How many adapters some stages save, and the bytes of these and of the largest checkpoint."""
    number, size, largest = 0, 0, 0
    for stage in training:
        weights = _weights_of_adapter((stage.section == "rec_tune" and exp.validator_backbone) or exp.backbone)
        candidates = exp.loop.candidates if stage.section == "align" else 1
        saved = 1 + (candidates if candidates > 1 else 0)
        number, size, largest = number + saved, size + saved * weights * _ADAPTER_BYTES, max(largest, weights)
    return number, size + largest * _CHECKPOINT_BYTES


def _weights_of_adapter(settings: BackboneSettings) -> int:
    """Numbers of one adapter; 0 where only the loaded model could tell."""
    if not Path(settings.model).expanduser().is_dir() and settings.model not in SHAPES:
        return 0
    try:
        return adapter_weights(model_shape(settings), settings.lora)
    except (SettingError, ValueError, AttributeError, KeyError):
        return 0
