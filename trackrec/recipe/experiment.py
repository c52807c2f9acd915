"""One run: what its configuration says, as objects, and its run directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import polars as pl

from trackrec.pipeline.pipeline import Pipeline
from trackrec.storage.parts import read_table

if TYPE_CHECKING:
    from trackrec.align.preferences import PreferenceSettings
    from trackrec.ctr.settings import CTRSettings
    from trackrec.distill.teacher import Teacher
    from trackrec.embed.encode import EmbedSettings
    from trackrec.interactions.samples.samples import SampleRules
    from trackrec.interactions.source import RatingSource
    from trackrec.llm.backbone import LanguageModel
    from trackrec.llm.loading import BackboneSettings
    from trackrec.llm.sampling.sampler import Sampler
    from trackrec.prompts.settings import PromptSettings
    from trackrec.recipe.settings import LoopSettings, Training
    from trackrec.validator.settings import ScoreSettings

T = TypeVar("T")


@dataclass
class Experiment:
    """A run's settings, its tables on disk, and what was read or loaded of it so far.

    It decides no result by itself: whatever does is a function of a module that the stages import, such as
    `trackrec.recipe.cohort`, so that an edit of it makes the right stages run again.
    """

    pipeline: Pipeline
    dataset: RatingSource
    samples: SampleRules
    prompts: PromptSettings
    backbone: BackboneSettings
    validator_backbone: BackboneSettings | None
    sampler: Sampler
    teacher: Teacher
    loop: LoopSettings
    scoring: ScoreSettings
    sets: PreferenceSettings
    distill: Training
    align: Training
    rec_tune: Training
    embed: EmbedSettings
    ctr: CTRSettings
    monitors: Sequence[Any] = ()  # `trackrec.runs.hooks.StageHook`
    models: dict[str, LanguageModel] = field(default_factory=dict)
    _read: dict[str, Any] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """Of the whole run."""
        return self.pipeline.seed

    @property
    def trainings(self) -> Mapping[str, Training]:
        """The sections of the training stages, by name."""
        return {"distill": self.distill, "align": self.align, "rec_tune": self.rec_tune}

    def say(self, text: str) -> None:
        """Print one line for the person who watches."""
        self.pipeline.say(text)

    def directory(self, stage: str) -> Path:
        """Where a stage's result lies."""
        return self.pipeline.directory(stage)

    def table(self, stage: str, name: str) -> pl.DataFrame:
        """A table of a done stage."""
        return read_table(self.directory(stage), name)

    def once(self, name: str, read: Callable[[], T]) -> T:
        """What ``read`` returned when it was first asked for under this name."""
        if name not in self._read:
            self._read[name] = read()
        found: T = self._read[name]
        return found
