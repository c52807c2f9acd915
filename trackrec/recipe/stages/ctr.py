"""Stage ``ctr``: the CTR nets of every arm and seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackrec.recipe.ctr_inputs import ctr_inputs, threshold_of_data
from trackrec.recipe.names import CTR
from trackrec.recipe.stage import RecipeStage

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment


@dataclass(frozen=True)
class CTRNets(RecipeStage):
    """Every arm and seed on the same rows.

    Attributes:
        reads: the stages whose results the nets read; see `trackrec.recipe.ctr_inputs.ctr_stages`.
    """

    reads: tuple[str, ...]
    name = CTR
    keys = ("ctr", "loop.users", "loop.warmup_users", "loop.disjoint")  # the loop's users are a slice

    @property
    def inputs(self) -> tuple[str, ...]:
        """See `RecipeStage.inputs`."""
        return self.reads

    def outside(self, exp: Experiment) -> Mapping[str, str]:
        """The threshold of the data, which the features hold."""
        return threshold_of_data(exp)

    def run(self, exp: Experiment, out: Path) -> dict[str, Any]:
        """See `RecipeStage.run`."""
        from trackrec.ctr.stage import run_ctr

        return run_ctr(ctr_inputs(exp), exp.ctr, out, exp.seed, exp.say)
