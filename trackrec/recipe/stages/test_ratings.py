"""Stage ``test`` of a run without a loop: the CTR arms from ratings alone, on the test split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackrec.ctr.arms.slices import sample_slices
from trackrec.ctr.arms.verdict import arm_metrics
from trackrec.recipe.ctr_inputs import ctr_inputs
from trackrec.recipe.names import CTR, DATA, TEST
from trackrec.recipe.stage import RecipeStage
from trackrec.recipe.tables import sample_rows
from trackrec.recipe.test_reads import count_read
from trackrec.storage.parts import write_part

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment


@dataclass(frozen=True)
class ReadTestRatings(RecipeStage):
    """Every CTR arm on test rows, where no stage of the loop has run and no arm reads a text."""

    name = TEST
    keys = ()
    inputs = (DATA, CTR)

    def run(self, exp: Experiment, out: Path) -> dict[str, Any]:
        """See `RecipeStage.run`."""
        reads = count_read(exp)
        write_part(out, "metrics", measure_arms(exp))
        return {"test_reads": reads}


def measure_arms(exp: Experiment) -> list[dict[str, Any]]:
    """Rows of the metrics table: every CTR arm on test rows."""
    slices = sample_slices(ctr_inputs(exp))
    return arm_metrics(exp.table(CTR, "predictions"), sample_rows(exp), "test", TEST, exp.seed, slices)
