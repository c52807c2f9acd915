"""The recipe: from ratings through T rounds of G and V to the final RecCoTs, as an ordered list of stages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from trackrec.experiment import Experiment
from trackrec.pipeline import Stage
from trackrec.steps import Steps

Names = tuple[str, ...]

# Config keys that decide what a language model reads and computes, who plays, and who is evaluated.
_MODEL: Names = ("backbone", "prompts")
_VALIDATOR: Names = (*_MODEL, "validator_backbone")
_PLAYERS: Names = ("loop.users", "loop.targets", "loop.disjoint")
_EVALUATED: Names = ("loop.eval_samples", "loop.eval_per_history")
TESTED: Names = ("loop.eval_samples", "loop.test_samples", "loop.eval_per_history")
# Code behind the stages.
_LLM: Names = ("prompts.py", "llm", "interactions/cohort.py")
_GENERATE: Names = (*_LLM, "generate")
_JUDGE: Names = (*_LLM, "validator")


class Loop:
    """Adds the stages of the loop to an experiment's pipeline, in the order in which they run.

    Args:
        experiment: settings, tables and models.
        steps: what the stages do.
    """

    def __init__(self, experiment: Experiment, steps: Steps) -> None:
        self.exp, self.steps = experiment, steps

    @property
    def generator(self) -> str:
        """The stage of the last G."""
        return f"round-{self.exp.loop.rounds}/align"

    @property
    def validator(self) -> str:
        """The stage of the last V."""
        return f"round-{self.exp.loop.rounds}/rec_tune"

    def add_stages(self) -> None:
        """Everything up to the final texts."""
        exp, steps, add = self.exp, self.steps, self._add
        exp.pipeline.add(
            Stage("data", ("dataset", "samples"), (), ("interactions",), steps.data, exp.dataset.content_key)
        )
        keys: Names = ("teacher", "prompts", "loop.warmup_users", *_PLAYERS)
        rooms: Names = ("prompts.py", "claims.py", "distill", "interactions/cohort.py")
        exp.pipeline.add(Stage("teacher", keys, ("data",), rooms, steps.teacher, exp.teacher.content_key))
        keys = (*_MODEL, "distill", *_PLAYERS)
        add("distill", keys, ("data", "teacher"), (*_LLM, "distill"), steps.distill, exp.distill.processes)
        generator, validator = "distill", self._round_zero()
        for round_ in range(1, exp.loop.rounds + 1):
            generator, validator = self._round(round_, generator, validator)
        self._plain()
        last = f"round-{exp.loop.rounds}/greedy"
        keys = (*_MODEL, "sampler", "loop.texts", *TESTED)
        add("texts", keys, ("data", generator, last), _GENERATE, lambda out: steps.final_texts(out, last, generator))

    def _add(
        self,
        name: str,
        keys: Names,
        inputs: Names,
        rooms: Names,
        run: Callable[[Path], dict[str, Any]],
        processes: int = 1,
    ) -> str:
        return self.exp.pipeline.add(Stage(name, keys, inputs, rooms, run, processes=processes))

    def _round_zero(self) -> str | None:
        """The distilled G's greedy texts, V's warm-up, and where both stand before the first round."""
        self._add_greedy("warmup", 0, "distill", "loop.warmup_users")
        loop, validator = self.exp.loop, None
        if loop.warmup:
            keys: Names = (*_VALIDATOR, "rec_tune", "loop.warmup_users", *_PLAYERS)
            texts = "warmup/greedy" if loop.warmup_users is None else "teacher"
            count = self.exp.rec_tune.processes
            validator = self._add("warmup/rec_tune", keys, ("data", texts), _JUDGE, self.steps.warm_up, count)
        self._add_evaluate("warmup", 0, validator, validator)
        return validator

    def _round(self, round_: int, generator: str, validator: str | None) -> tuple[str, str]:
        """One turn: G samples, V scores, S-DPO moves G, G writes, Rec-Tuning moves V."""
        steps, add, name = self.steps, self._add, f"round-{round_}"
        keys: Names = (*_MODEL, "sampler", *_PLAYERS)
        sample = add(
            f"{name}/sample", keys, ("data", generator), _GENERATE, lambda out: steps.sample(out, round_, generator)
        )
        keys = (*_VALIDATOR, "scoring", *_PLAYERS)
        inputs: Names = ("data", sample, *([validator] if validator else []))
        score = add(f"{name}/score", keys, inputs, _JUDGE, lambda out: steps.score(out, name, validator))
        sets = add(
            f"{name}/preferences",
            ("align.sets",),
            ("data", sample, score),
            ("align/preferences.py", "metrics.py"),
            lambda out: steps.preferences(out, round_),
        )
        keys = (*_MODEL, "align.model", "align.data", "align.trainer")
        inputs = ("data", generator, sample, sets)
        run: Callable[[Path], dict[str, Any]] = lambda out: steps.align(out, name, generator)  # noqa: E731
        aligned = add(f"{name}/align", keys, inputs, (*_LLM, "align"), run, self.exp.align.processes)
        self._add_greedy(name, round_, aligned)
        start = validator if self.exp.loop.validator_start == "previous" else None
        keys = (*_VALIDATOR, "rec_tune", "loop.validator_start", *_PLAYERS)
        inputs = ("data", f"{name}/greedy", *([start] if start else []))
        run = lambda out: steps.rec_tune(out, round_, start)  # noqa: E731
        tuned = add(f"{name}/rec_tune", keys, inputs, _JUDGE, run, self.exp.rec_tune.processes)
        self._add_evaluate(name, round_, validator, tuned)
        return aligned, tuned

    def _add_greedy(self, name: str, round_: int, generator: str, *more: str) -> None:
        keys: Names = (*_MODEL, "sampler", *_PLAYERS, *_EVALUATED, *more)
        inputs: Names = ("data", generator)
        self._add(f"{name}/greedy", keys, inputs, _GENERATE, lambda out: self.steps.greedy(out, round_, generator))

    def _add_evaluate(self, name: str, round_: int, judge: str | None, tuned: str | None) -> None:
        keys: Names = (*_VALIDATOR, "scoring", *_EVALUATED)
        validators = [stage for stage in dict.fromkeys((judge, tuned)) if stage]
        inputs: Names = ("data", f"{name}/greedy", *validators)
        rooms: Names = (*_JUDGE, "metrics.py")
        run = self.steps.evaluate
        self._add(f"{name}/evaluate", keys, inputs, rooms, lambda out: run(out, name, round_, judge, tuned))

    def _plain(self) -> None:
        """The comparison: a V tuned on the same rows in the same way, without any RecCoT."""
        loop, steps = self.exp.loop, self.steps
        turns = [loop.rounds]
        if loop.validator_start == "previous":
            turns = [*([0] if loop.warmup else []), *range(1, loop.rounds + 1)]
        played = ("loop.validator_start", "loop.rounds", "loop.warmup", "loop.warmup_users")
        keys: Names = (*_VALIDATOR, "rec_tune", *played, *_PLAYERS)
        run: Callable[[Path], dict[str, Any]] = lambda out: steps.rec_tune_plain(out, turns)  # noqa: E731
        tuned = self._add("plain/rec_tune", keys, ("data",), _JUDGE, run, self.exp.rec_tune.processes)
        keys = (*_VALIDATOR, "scoring", *_EVALUATED)
        rooms: Names = (*_JUDGE, "metrics.py")
        self._add("plain/evaluate", keys, ("data", tuned), rooms, steps.evaluate_plain)
