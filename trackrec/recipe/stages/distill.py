"""Stage ``distill``: SFT of G on the teacher's texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from trackrec.llm.packing import tree_tokens
from trackrec.recipe.book import prompt_book
from trackrec.recipe.cohort import held_back
from trackrec.recipe.models import language_model, new_adapter
from trackrec.recipe.names import DATA, DISTILL, TEACHER
from trackrec.recipe.stage import RecipeStage
from trackrec.recipe.stage_keys import GENERATOR, PLAYERS
from trackrec.recipe.tables import texts_of

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment


@dataclass(frozen=True)
class Distill(RecipeStage):
    """SFT of a fresh adapter on the teacher's texts."""

    section = "distill"
    name = DISTILL
    keys = (*GENERATOR, "distill", *PLAYERS)
    inputs = (DATA, TEACHER)

    def run(self, exp: Experiment, out: Path) -> dict[str, Any]:
        """See `RecipeStage.run`."""
        from trackrec.distill.data import DistillData
        from trackrec.distill.module import DistillModule
        from trackrec.recipe.training import fit

        section, lm = exp.distill, language_model(exp, "generator")
        name = new_adapter(exp, lm, "distill", None)
        written = pl.Series(sorted(texts_of(exp, TEACHER)), dtype=pl.String)
        held = set(written.filter(held_back(written, exp.loop.hold, exp.seed)))
        data = DistillData(lm, prompt_book(exp), exp.directory(TEACHER), held, seed=exp.seed, **section.data)
        data.setup("fit")
        tokens = sum(tree_tokens(entry.tree) for entry in data.examples)
        return fit(exp, out, DistillModule(lm, name, **section.model), data, section, len(data.examples), tokens)
