"""Builds an experiment from a configuration's objects, after every check that needs no data and no model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from jsonargparse import Namespace

from trackrec.ctr.settings import CTRSettings
from trackrec.llm.loading import BackboneSettings
from trackrec.llm.model_files import model_digest
from trackrec.llm.sampling.auto_sampler import AutoSampler
from trackrec.llm.training.devices import process_count
from trackrec.llm.training.fit import check_nothing_is_watched
from trackrec.pipeline.pipeline import Pipeline
from trackrec.recipe.experiment import Experiment
from trackrec.recipe.settings import LoopSettings, Training
from trackrec.runtime.errors import SettingError


class Objects(Protocol):
    """Builds the configuration's objects anew at each call, with the values of some dotted keys changed."""

    def __call__(self, changes: Mapping[str, Any] | None = None) -> Namespace:
        """The objects."""
        ...


def build_experiment(config: dict[str, Any], objects: Objects, say: Callable[[str], None]) -> Experiment:
    """The experiment of a configuration. Cheap checks are done here; nothing is read or loaded yet.

    Raises:
        MissingPackageError: a setting needs vLLM, and it isn't installed.
        SettingError: a trainer wants devices that it can't have.
    """
    made = objects()
    if isinstance(made.sampler, AutoSampler):
        made.sampler, engine, why = made.sampler.resolve(made.backbone)
        config = {**config, "sampler": engine}
        say(f"sampler AutoSampler is {type(made.sampler).__name__}: {why}")
    made.sampler.check(made.backbone)
    made.scoring.check(made.validator_backbone or made.backbone)
    if not str(made.run_dir).strip():
        raise SettingError("run_dir must name a directory, got ''. It holds all that a run writes.")
    run_dir = Path(made.run_dir).expanduser()
    models = {"backbone": made.backbone, "validator_backbone": made.validator_backbone, "embed": made.embed}

    def contents(keys: Sequence[str]) -> dict[str, str]:
        return {key: model_digest(models[key].model) for key in keys if models.get(key) is not None}

    pipeline = Pipeline(run_dir, config, seed=made.seed_everything, say=say, contents=contents)

    def section(name: str) -> Training:
        model, data, trainer = (_arguments(made[name][part]) for part in ("model", "data", "trainer"))
        own = made.validator_backbone or made.backbone if name == "rec_tune" else made.backbone
        check_training(name, model, data, own, made.loop, made.sampler.n)
        if not (data["hold"] if name == "align" else made.loop.hold):
            check_nothing_is_watched(name, trainer)
        count = process_count(trainer, f"{name}.trainer")
        return Training(model, data, lambda: _arguments(objects()[name].trainer), count)

    if process_count(_arguments(made.ctr.trainer), "ctr.trainer") > 1:
        raise SettingError(
            f"ctr.trainer.devices must be auto or 1, got {made.ctr.trainer.devices!r}: a CTR net trains in one process."
        )

    return Experiment(
        pipeline=pipeline,
        dataset=made.dataset,
        samples=made.samples,
        prompts=made.prompts,
        backbone=made.backbone,
        validator_backbone=made.validator_backbone,
        sampler=made.sampler,
        teacher=made.teacher,
        loop=made.loop,
        scoring=made.scoring,
        sets=made.align.sets,
        distill=section("distill"),
        align=section("align"),
        rec_tune=section("rec_tune"),
        embed=made.embed,
        ctr=ctr_plan(objects),
        monitors=made.monitors,
    )


def check_models(exp: Experiment, stages: Collection[str]) -> None:
    """Check that the language models that some stages load are where the configuration says.

    Raises:
        MissingFileError: naming the key.
    """
    keys = {key for stage in exp.pipeline.stages if stage.name in stages for key in stage.keys}
    for key, settings in (("backbone", exp.backbone), ("validator_backbone", exp.validator_backbone)):
        if key in keys and settings is not None:
            settings.check_path(key)


def check_training(
    name: str,
    model: Mapping[str, Any],
    data: Mapping[str, Any],
    backbone: BackboneSettings,
    loop: LoopSettings,
    draws: int,
) -> None:
    """Refuse values of a training section that would only fail when its stage starts, hours later.

    Raises:
        SettingError: naming the key.
    """
    from trackrec.align.data import check_hold
    from trackrec.align.module import SoftmaxDPOModule
    from trackrec.distill.module import DistillModule
    from trackrec.llm.training.adapter_module import AdapterModule
    from trackrec.validator.data import check_options
    from trackrec.validator.module import RecTuningModule

    if name == "align":
        check_hold(data.get("hold", 0.0))
    for key, value in data.items():
        if key != "hold" and isinstance(value, int) and value < 1:
            raise SettingError(f"{name}.data.{key} must be at least 1, got {value}.")
    if name == "rec_tune":
        check_options(data)
    if name == "align" and not loop.align:
        return
    if name == "align" and draws < 2:
        raise SettingError(
            f"sampler.init_args.n must be at least 2, got {draws}: alignment compares the draws of a history. Or set "
            "loop.align: false."
        )
    modules: dict[str, type[AdapterModule]] = {
        "distill": DistillModule,
        "align": SoftmaxDPOModule,
        "rec_tune": RecTuningModule,
    }
    modules[name].check(model, backbone)


def ctr_plan(objects: Objects, changes: Mapping[str, Any] | None = None) -> CTRSettings:
    """The plan of the CTR stage, with the values of some dotted keys changed."""
    made = objects(changes).ctr
    return CTRSettings(
        net=made.net,
        connector=made.connector,
        model=_arguments(made.model),
        data=_arguments(made.data),
        trainer=lambda: _arguments(objects(changes).ctr.trainer),
        arms=made.arms,
        seeds=made.seeds,
        patience=made.patience,
        text=made.text,
        classics=made.classics,
        features=made.features,
    )


def _arguments(values: Namespace | dict[str, Any]) -> dict[str, Any]:
    return dict(vars(values)) if isinstance(values, Namespace) else dict(values)
