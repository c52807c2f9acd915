"""What every stage of the recipe states about itself."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment


class RecipeStage(abc.ABC):
    """One stage: the keys that decide its result, the stages it reads, and what it does.

    Subclasses are frozen dataclasses in `trackrec.recipe.stages`, one file per kind. Such a file receives the
    experiment as an argument and doesn't import it: what the file imports is the stage's code, and decides when it runs
    again.

    Attributes:
        section: the config section whose trainer runs the stage; empty for a stage that trains nothing.
        by_part: whether it resumes part by part, ``loop.shard_histories`` histories each.
    """

    section: ClassVar[str] = ""
    by_part: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The stage's name; see `trackrec.recipe.names`."""

    @property
    @abc.abstractmethod
    def keys(self) -> tuple[str, ...]:
        """Dotted config keys whose values decide the result."""

    @property
    @abc.abstractmethod
    def inputs(self) -> tuple[str, ...]:
        """Names of the stages that it reads."""

    def classes(self, exp: Experiment) -> tuple[str, ...]:
        """Paths of classes that settings choose without naming them by path."""
        return ()

    def outside(self, exp: Experiment) -> Mapping[str, str]:
        """What else decides the result, such as hashes of source files."""
        return {}

    @abc.abstractmethod
    def run(self, exp: Experiment, out: Path) -> dict[str, Any]:
        """Write the stage's result into ``out``.

        Returns:
            Notes for the manifest.
        """
