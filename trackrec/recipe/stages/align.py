"""Stage ``align``: S-DPO moves G."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackrec.llm.packing import tree_tokens
from trackrec.recipe.book import prompt_book
from trackrec.recipe.models import language_model, new_adapter
from trackrec.recipe.names import DATA, existing, in_round
from trackrec.recipe.stage import RecipeStage
from trackrec.recipe.stage_keys import MODEL

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment


@dataclass(frozen=True)
class Align(RecipeStage):
    """S-DPO of a copy of the generator that sampled, on the sets of one round, or of several that it drew for."""

    rounds: tuple[int, ...]
    generator: str | None
    section = "align"
    keys = (*MODEL, "align.model", "align.data", "align.trainer")

    @property
    def name(self) -> str:
        """See `RecipeStage.name`."""
        return in_round(self.rounds[-1], "align")

    @property
    def inputs(self) -> tuple[str, ...]:
        """See `RecipeStage.inputs`."""
        drawn = [in_round(number, kind) for number in self.rounds for kind in ("sample", "preferences")]
        return existing(DATA, self.generator, *drawn)

    def run(self, exp: Experiment, out: Path) -> dict[str, Any]:
        """See `RecipeStage.run`."""
        from trackrec.align.data import AlignData
        from trackrec.align.module import SoftmaxDPOModule, write_references
        from trackrec.recipe.training import fit

        section, lm = exp.align, language_model(exp, "generator")
        adapter = new_adapter(exp, lm, self.name.replace("/", "-"), self.generator)
        directories = [
            (exp.directory(in_round(number, "preferences")), exp.directory(in_round(number, "sample")))
            for number in self.rounds
        ]
        data = AlignData(lm, prompt_book(exp), directories, seed=exp.seed, **section.data)
        data.setup("fit")
        lm.check_packing(max((entry.tree for entry in data.examples), key=len), adapter)
        module = SoftmaxDPOModule(lm, adapter, **section.model)
        write_references(module, data, section.trainer(), out)
        tokens = sum(tree_tokens(entry.tree) for entry in data.examples)
        return fit(exp, out, module, data, section, len(data.examples), tokens)
