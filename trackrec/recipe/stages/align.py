"""Stage ``align``: S-DPO moves G."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from trackrec.align.reliability import RELIABILITY
from trackrec.llm.packing import tree_tokens
from trackrec.llm.training.devices import LOCAL_RANK
from trackrec.metrics.names import TEXT_USE
from trackrec.recipe.book import prompt_book
from trackrec.recipe.models import language_model, new_adapter
from trackrec.recipe.names import DATA, existing, in_round
from trackrec.recipe.stage import RecipeStage
from trackrec.recipe.stage_keys import GENERATOR

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment


@dataclass(frozen=True)
class Align(RecipeStage):
    """S-DPO of a copy of the generator that sampled, on the sets of one round, or of several that it drew for.

    Where the rewards are less reliable than ``loop.min_reliability``, or V reads less than ``loop.min_reading``, the
    copy is published as it is. With ``loop.candidates`` above 1 its states along the training are kept too; see
    `Candidates`.

    Attributes:
        rounds: whose sets it is aligned on.
        generator: the stage of the G that sampled; None is the base model.
        evaluated: the stage that measured how much the V reads that scored the draws; None where it doesn't matter.
    """

    rounds: tuple[int, ...]
    generator: str | None
    evaluated: str | None = None
    section = "align"
    keys = (
        *GENERATOR,
        "align.model",
        "align.data",
        "align.trainer",
        "align.sets.weight",
        "loop.min_reliability",
        "loop.min_reading",
        "loop.candidates",
    )

    @property
    def name(self) -> str:
        """See `RecipeStage.name`."""
        return in_round(self.rounds[-1], "align")

    @property
    def inputs(self) -> tuple[str, ...]:
        """See `RecipeStage.inputs`."""
        drawn = [in_round(number, kind) for number in self.rounds for kind in ("sample", "preferences")]
        return existing(DATA, self.generator, *drawn, self.evaluated)

    def run(self, exp: Experiment, out: Path) -> dict[str, Any]:
        """See `RecipeStage.run`."""
        from trackrec.align.candidates import Candidates
        from trackrec.align.data import AlignData
        from trackrec.align.module import SoftmaxDPOModule, write_references
        from trackrec.recipe.training import fit

        section, lm = exp.align, language_model(exp, "generator")
        adapter = new_adapter(exp, lm, self.name.replace("/", "-"), self.generator)
        if (skipped := self.reason_to_skip(exp)) is not None:
            exp.say(f"    not aligned: {skipped}")
            if int(os.environ.get(LOCAL_RANK, 0)) == 0:  # DDP begins with the training
                lm.save_adapter(out / "adapter", adapter)
            return {"skipped": len(self.rounds), "reason": skipped}
        directories = [
            (exp.directory(in_round(number, "preferences")), exp.directory(in_round(number, "sample")))
            for number in self.rounds
        ]
        data = AlignData(lm, prompt_book(exp), directories, exp.sets.weight, seed=exp.seed, **section.data)
        data.setup("fit")
        lm.check_packing(max((entry.tree for entry in (*data.examples, *data.held)), key=len), adapter)
        module = SoftmaxDPOModule(lm, adapter, **section.model)
        write_references(module, data, section.trainer(), out)
        tokens = sum(tree_tokens(entry.tree) for entry in data.examples)
        callbacks = [Candidates(out, exp.loop.candidates)] if exp.loop.candidates > 1 else []
        notes = fit(exp, out, module, data, section, len(data.examples), tokens, callbacks)
        return {**notes, **({"held": len(data.held)} if data.held else {})}

    def reason_to_skip(self, exp: Experiment) -> str | None:
        """Why there is nothing to learn from these rounds; None: they are aligned on."""
        return self._unreliable(exp) or self._unread(exp)

    def _unread(self, exp: Experiment) -> str | None:
        """By how much the V reads that scored the draws."""
        least = exp.loop.min_reading
        if least is None or self.evaluated is None:
            return None
        metrics = exp.table(self.evaluated, "metrics")
        found = metrics.filter(pl.col("name") == TEXT_USE)["value"].drop_nans()
        if not len(found):
            exp.say("    whether V reads can't be measured: aligned without loop.min_reading")
            return None
        if found[0] >= least:
            return None
        return (
            f"V's AUC with the users' own texts less that with other users' is {found[0]:.3f}, below loop.min_reading, "
            f"{least}: its rewards say nothing of a text"
        )

    def _unreliable(self, exp: Experiment) -> str | None:
        """By the rounds' mean reliability."""
        least = exp.loop.min_reliability
        if least is None:
            return None
        tables = pl.concat([exp.table(in_round(number, "preferences"), "metrics") for number in self.rounds])
        found = tables.filter((pl.col("name") == RELIABILITY) & (pl.col("n") > 0))["value"].drop_nans()
        if not len(found):
            exp.say("    the reliability of the rewards can't be measured: aligned without loop.min_reliability")
            return None
        mean = float(found.mean())  # type: ignore[arg-type]
        if mean >= least:
            return None
        return (
            f"the rewards' reliability is {mean:.3f}, below loop.min_reliability, {least}: nothing to learn from them"
        )
