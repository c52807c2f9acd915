"""Stages ``sample``, ``greedy``, ``texts`` and ``untuned``: G writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackrec.recipe.cohort import cohort_of, shown_half
from trackrec.recipe.names import DATA, TEXTS, UNTUNED, existing, in_round
from trackrec.recipe.stage import RecipeStage
from trackrec.recipe.stage_keys import EVALUATED, GENERATOR, PLAYERS, TESTED
from trackrec.recipe.tables import empty_histories, sample_rows, texts_of
from trackrec.recipe.writing import write_texts
from trackrec.storage.parts import write_part

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment

# The part that takes over the texts of the last round: behind every part that is written here.
_TAKEN_OVER = 99_999


@dataclass(frozen=True)
class Sample(RecipeStage):
    """N draws per history of the loop that has rewards; the others are counted, empty histories once more."""

    round: int
    generator: str | None
    by_part = True
    keys = (*GENERATOR, "sampler", *PLAYERS)

    @property
    def name(self) -> str:
        """See `RecipeStage.name`."""
        return in_round(self.round, "sample")

    @property
    def inputs(self) -> tuple[str, ...]:
        """See `RecipeStage.inputs`."""
        return existing(DATA, self.generator)

    def run(self, exp: Experiment, out: Path) -> dict[str, Any]:
        """See `RecipeStage.run`."""
        cohort = cohort_of(exp)
        wanted = sorted(set(cohort.reward["history_id"].to_list()))
        if cohort.left_out:
            exp.say(f"    {len(cohort.left_out)} of {len(cohort.loop_histories)} histories have no rewards: no draws")
        if exp.loop.targets == 1:
            exp.say("    loop.targets is 1: the reward is V's probability of one answer, so Yes wins for a like (tone)")
        notes = write_texts(exp, out, wanted, self.generator, self.round, greedy=False)
        empty = len(empty_histories(exp).intersection(cohort.loop_histories))
        counts = {"left_out": len(cohort.left_out), **({"left_out_without_history": empty} if empty else {})}
        return {**notes, **counts}


@dataclass(frozen=True)
class Greedy(RecipeStage):
    """One greedy text per history that takes part or is evaluated on validation rows; round 0 precedes the rounds."""

    round: int
    generator: str | None
    by_part = True

    @property
    def name(self) -> str:
        """See `RecipeStage.name`."""
        return in_round(self.round, "greedy")

    @property
    def keys(self) -> tuple[str, ...]:
        """See `RecipeStage.keys`."""
        warmup = () if self.round else ("loop.warmup_users",)
        return (*GENERATOR, "sampler", *PLAYERS, *EVALUATED, *warmup)

    @property
    def inputs(self) -> tuple[str, ...]:
        """See `RecipeStage.inputs`."""
        return existing(DATA, self.generator)

    def outside(self, exp: Experiment) -> Mapping[str, str]:
        """See `shown_half`."""
        return shown_half(exp)

    def run(self, exp: Experiment, out: Path) -> dict[str, Any]:
        """See `RecipeStage.run`."""
        cohort = cohort_of(exp)
        # A validator that warms up on the teacher's texts needs no text of the distilled generator.
        tuned = cohort.loop_histories if self.round or exp.loop.warmup_users is None else []
        wanted = sorted({*tuned, *cohort.valid["history_id"].to_list()})
        return write_texts(exp, out, wanted, self.generator, self.round, greedy=True)


@dataclass(frozen=True)
class FinalTexts(RecipeStage):
    """Greedy texts of the last G: those of the last round, and those of the histories that took no part."""

    rounds: int
    generator: str | None
    name = TEXTS
    by_part = True
    keys = (*GENERATOR, "sampler", "loop.texts", *TESTED)

    @property
    def inputs(self) -> tuple[str, ...]:
        """See `RecipeStage.inputs`."""
        return existing(DATA, self.generator, in_round(self.rounds, "greedy"))

    def outside(self, exp: Experiment) -> Mapping[str, str]:
        """See `shown_half`."""
        return shown_half(exp)

    def run(self, exp: Experiment, out: Path) -> dict[str, Any]:
        """See `RecipeStage.run`."""
        have = exp.table(in_round(self.rounds, "greedy"), "reccots")
        cohort = cohort_of(exp)
        # The nets are validated on the users who chose a G too.
        wanted = [sample_rows(exp)] if exp.loop.texts == "all" else [cohort.test, cohort.choose]
        rest = {key for rows in wanted for key in rows["history_id"].to_list()} - set(have["history_id"].to_list())
        notes: dict[str, Any] = {}
        if rest:
            notes = write_texts(exp, out, sorted(rest), self.generator, self.rounds, greedy=True)
        write_part(out, "reccots", have, part=_TAKEN_OVER)
        return {**notes, "taken_over": len(have)}


@dataclass(frozen=True)
class UntunedTexts(RecipeStage):
    """Greedy texts of the base model about every history that has a final text."""

    name = UNTUNED
    by_part = True
    keys = (*GENERATOR, "sampler")
    inputs = (DATA, TEXTS)

    def run(self, exp: Experiment, out: Path) -> dict[str, Any]:
        """See `RecipeStage.run`."""
        return write_texts(exp, out, sorted(texts_of(exp, TEXTS)), None, 0, greedy=True)
