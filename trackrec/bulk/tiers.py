"""The runs whose generators write the tiers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trackrec.bulk.part import TierPrompts
from trackrec.bulk.settings import BulkSettings
from trackrec.bulk.writers import PROFILE, GeneratorWriter, ProfileWriter, TextWriter, generator_version
from trackrec.llm.loading import BackboneSettings
from trackrec.llm.sampling.sampler import Sampler
from trackrec.llm.vllm.sampler import VLLMSampler
from trackrec.recipe.build import Objects, build_experiment
from trackrec.recipe.experiment import Experiment
from trackrec.recipe.graph import graph_of
from trackrec.recipe.tables import like_threshold
from trackrec.runtime.errors import MissingFileError, SettingError

Parse = Callable[[Sequence[Path]], tuple[dict[str, Any], Objects]]
"""Reads configuration files: the values as plain types, and what builds their objects."""
_PROFILE_VERSION = "profile@1"


@dataclass(frozen=True)
class TierRun:
    """The run of a tier.

    Attributes:
        config: its resolved configuration as plain types.
        experiment: the run.
        stage: that trained its last G; None is the base model.
    """

    config: dict[str, Any]
    experiment: Experiment
    stage: str | None


def open_tiers(
    config: dict[str, Any], objects: Objects, bulk: BulkSettings, parse: Parse, say: Callable[[str], None]
) -> dict[str, TierRun]:
    """The run of every tier: the command's own one, unless the tier names another configuration.

    Args:
        config: of the command.
        objects: builds its objects.
        bulk: the section ``bulk``.
        parse: reads the configuration of another run.
        say: prints one line.

    Raises:
        MissingFileError: a tier's configuration isn't there.
    """
    own = open_tier(config, objects, say)
    runs = {}
    for tier in bulk.tiers:
        if tier.config is None:
            runs[tier.name] = own
            continue
        path = Path(tier.config).expanduser()
        if not path.is_file():
            raise MissingFileError(f"bulk.tiers: the config of {tier.name}, {path}, isn't there.")
        runs[tier.name] = open_tier(*parse([path]), say)
    if bulk.merge_adapter:
        for tier in bulk.tiers:
            if tier.writer != PROFILE:
                check_merge(runs[tier.name].experiment.backbone, runs[tier.name].experiment.sampler)
    return runs


def check_merge(backbone: BackboneSettings, sampler: Sampler) -> None:
    """Check that an adapter added to the weights in memory is what the sampler would write with.

    Raises:
        SettingError: vLLM reads the weights from disk, or they are quantized.
    """
    if isinstance(sampler, VLLMSampler):
        raise SettingError(
            "bulk.merge_adapter must be false with VLLMSampler, which reads the weights from disk. `trackrec export "
            "--adapter G --merged true` writes merged ones; name them as the backbone of a tier's config."
        )
    if backbone.quantize != "none":
        raise SettingError(
            f"bulk.merge_adapter must be false where backbone.quantize is {backbone.quantize}: the adapter would be "
            "rounded with the weights."
        )


def open_tier(config: dict[str, Any], objects: Objects, say: Callable[[str], None]) -> TierRun:
    """The run of a configuration, with its stages in its pipeline."""
    from trackrec.recipe.graph import add_stages

    experiment = build_experiment(config, objects, say)
    add_stages(experiment)
    return TierRun(config, experiment, graph_of(experiment).generator)


def tier_versions(runs: Mapping[str, TierRun], bulk: BulkSettings) -> dict[str, str]:
    """The version of who writes each tier.

    Raises:
        StageError: a run hasn't trained its G.
    """
    return {
        tier.name: _PROFILE_VERSION
        if tier.writer == PROFILE
        else generator_version(runs[tier.name].experiment, runs[tier.name].stage, bulk.merge_adapter)
        for tier in bulk.tiers
    }


def tier_prompts(runs: Mapping[str, TierRun]) -> dict[str, TierPrompts]:
    """How the prompts of each tier are made."""
    return {
        name: TierPrompts(
            run.experiment.prompts,
            like_threshold(run.experiment),
            run.experiment.samples.history_len or run.experiment.samples.max_history,
        )
        for name, run in runs.items()
    }


def tier_writer(runs: Mapping[str, TierRun], bulk: BulkSettings) -> Callable[[str], TextWriter]:
    """Makes the writer of a tier."""
    kinds = {tier.name: tier.writer for tier in bulk.tiers}

    def make(tier: str) -> TextWriter:
        if kinds[tier] == PROFILE:
            return ProfileWriter()
        return GeneratorWriter(runs[tier].experiment, runs[tier].stage, bulk.merge_adapter)

    return make
