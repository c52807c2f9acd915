"""The recipe: from ratings through T rounds of G and V to the final RecCoTs, as an ordered list of stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trackrec.pipeline.stage import Stage
from trackrec.recipe.experiment import Experiment, tuning_turns
from trackrec.recipe.steps import Steps

Names = tuple[str, ...]
Run = Callable[[Path], dict[str, Any]]

# Config keys that decide what a language model reads and computes, who plays, and who is evaluated.
_MODEL: Names = ("backbone", "prompts")
_VALIDATOR: Names = (*_MODEL, "validator_backbone")
_PLAYERS: Names = ("loop.users", "loop.targets", "loop.disjoint")
_EVALUATED: Names = ("loop.eval_samples", "loop.eval_per_history")
# Which rows tune the last V.
_TURNS = ("validator_start", "rounds", "warmup", "warmup_users", "rec_tune", "alternate")
TUNED: Names = (*(f"loop.{key}" for key in _TURNS), *_PLAYERS)
TESTED: Names = ("loop.eval_samples", "loop.test_samples", "loop.eval_per_history")
# Code behind the stages.
_LLM: Names = ("prompts", "llm", "recipe/cohort.py")
GENERATE: Names = (*_LLM, "generate")
_JUDGE: Names = (*_LLM, "validator")


class Loop:
    """Adds the stages of the loop to an experiment's pipeline, in the order in which they run.

    Args:
        experiment: settings, tables and models.
        steps: what the stages do.
    """

    def __init__(self, experiment: Experiment, steps: Steps) -> None:
        self.exp, self.steps = experiment, steps
        # Stages of the last G and V, and of the V that is tuned without texts, once they are added; None is the base.
        self.generator: str | None = None
        self.validator: str | None = None
        self.plain: str | None = None

    def add_stages(self) -> None:
        """Everything up to the final texts."""
        exp, steps = self.exp, self.steps
        exp.pipeline.add(
            Stage("data", ("dataset", "samples"), (), ("interactions",), steps.data, exp.dataset.content_key)
        )
        keys: Names = ("teacher", "prompts", "loop.warmup_users", "loop.wrong_teacher", *_PLAYERS)
        rooms: Names = ("prompts", "prompts/grounding.py", "distill", "recipe/cohort.py")
        exp.pipeline.add(Stage("teacher", keys, ("data",), rooms, steps.teacher, exp.teacher.content_key))
        if exp.loop.distill:
            keys = (*_MODEL, "distill", *_PLAYERS)
            run, count = steps.distill, exp.distill.processes
            self.generator = self._add_training("distill", keys, ("data", "teacher"), (*_LLM, "distill"), run, count)
        self._round_zero()
        turns = range(1, exp.loop.rounds + 1)
        for rounds in ([number] for number in turns) if exp.loop.alternate else [list(turns)]:
            self._turn(rounds)
        self._plain()
        generator, last = self.generator, f"round-{exp.loop.rounds}/greedy"
        keys = (*_MODEL, "sampler", "loop.texts", *TESTED)
        inputs = _there("data", generator, last)
        self._add("texts", keys, inputs, GENERATE, lambda out: steps.final_texts(out, last, generator))

    def _add(
        self,
        name: str,
        keys: Names,
        inputs: Names,
        rooms: Names,
        run: Run,
    ) -> str:
        """A stage that reads or writes texts, part by part."""
        size = self.exp.loop.shard_histories
        return self.exp.pipeline.add(Stage(name, keys, inputs, rooms, run, part_size=size))

    def _add_training(self, name: str, keys: Names, inputs: Names, rooms: Names, run: Run, processes: int) -> str:
        """A stage that trains an adapter, and resumes from its last checkpoint."""
        return self.exp.pipeline.add(Stage(name, keys, inputs, rooms, run, processes=processes))

    def _round_zero(self) -> None:
        """The first G's greedy texts, V's warm-up, and where both stand before the first round."""
        self._add_greedy("warmup", 0, "loop.warmup_users")
        loop = self.exp.loop
        if loop.warmup:
            keys: Names = (*_VALIDATOR, "rec_tune", "loop.warmup_users", *_PLAYERS)
            texts = "warmup/greedy" if loop.warmup_users is None else "teacher"
            count = self.exp.rec_tune.processes
            self.validator = self._add_training(
                "warmup/rec_tune", keys, ("data", texts), _JUDGE, self.steps.warm_up, count
            )
        self._add_evaluate("warmup", 0, self.validator)

    def _turn(self, rounds: Sequence[int]) -> None:
        """G samples, V scores, S-DPO moves G, G writes, Rec-Tuning moves V; for one round, or for all of them at once.

        Its stages bear the name of the last of its rounds; texts are drawn and scored for each.
        """
        loop, judge, last = self.exp.loop, self.validator, rounds[-1]
        if loop.align:
            drawn = [name for number in rounds for name in self._add_sets(number)]
            self._add_align(rounds, drawn)
        self._add_greedy(f"round-{last}", last)
        if loop.rec_tune:
            self._add_rec_tune(rounds)
        self._add_evaluate(f"round-{last}", last, judge)

    def _add_sets(self, round_: int) -> Names:
        """Draws, their scores, preference sets; returns the stages that an alignment reads."""
        steps, name, generator, validator = self.steps, f"round-{round_}", self.generator, self.validator
        keys: Names = (*_MODEL, "sampler", *_PLAYERS)
        run: Run = lambda out: steps.sample(out, round_, generator)  # noqa: E731
        sample = self._add(f"{name}/sample", keys, _there("data", generator), GENERATE, run)
        keys = (*_VALIDATOR, "scoring", *_PLAYERS)
        run = lambda out: steps.score(out, name, validator)  # noqa: E731
        score = self._add(f"{name}/score", keys, _there("data", sample, validator), _JUDGE, run)
        rooms: Names = ("align/preferences.py", "metrics")
        run = lambda out: steps.preferences(out, round_)  # noqa: E731
        return sample, self._add(f"{name}/preferences", ("align.sets",), ("data", sample, score), rooms, run)

    def _add_align(self, rounds: Sequence[int], drawn: Sequence[str]) -> None:
        steps, generator = self.steps, self.generator
        keys: Names = (*_MODEL, "align.model", "align.data", "align.trainer")
        run: Run = lambda out: steps.align(out, rounds, generator)  # noqa: E731
        inputs, count = _there("data", generator, *drawn), self.exp.align.processes
        self.generator = self._add_training(f"round-{rounds[-1]}/align", keys, inputs, (*_LLM, "align"), run, count)

    def _add_rec_tune(self, rounds: Sequence[int]) -> None:
        steps, name = self.steps, f"round-{rounds[-1]}"
        start = self.validator if self.exp.loop.validator_start == "previous" else None
        turns: Names = ("loop.validator_start", "loop.validator_lr", "loop.alternate")
        keys: Names = (*_VALIDATOR, "rec_tune", *turns, *_PLAYERS)
        run: Run = lambda out: steps.rec_tune(out, rounds, start)  # noqa: E731
        inputs, count = _there("data", f"{name}/greedy", start), self.exp.rec_tune.processes
        self.validator = self._add_training(f"{name}/rec_tune", keys, inputs, _JUDGE, run, count)

    def _add_greedy(self, name: str, round_: int, *more: str) -> None:
        keys: Names = (*_MODEL, "sampler", *_PLAYERS, *_EVALUATED, *more)
        generator = self.generator
        run: Run = lambda out: self.steps.greedy(out, round_, generator)  # noqa: E731
        self._add(f"{name}/greedy", keys, _there("data", generator), GENERATE, run)

    def _add_evaluate(self, name: str, round_: int, judge: str | None) -> None:
        """Measure the V that judged and the V that is the last one by now."""
        keys: Names = (*_VALIDATOR, "scoring", *_EVALUATED)
        tuned = self.validator
        inputs = _there("data", f"{name}/greedy", *dict.fromkeys((judge, tuned)))
        rooms: Names = (*_JUDGE, "metrics")
        run = self.steps.evaluate
        self._add(f"{name}/evaluate", keys, inputs, rooms, lambda out: run(out, name, round_, judge, tuned))

    def _plain(self) -> None:
        """The comparison: a V tuned on the same rows in the same way, without any RecCoT."""
        steps, turns = self.steps, tuning_turns(self.exp.loop)
        if turns:
            keys: Names = (*_VALIDATOR, "rec_tune", *TUNED)
            run: Run = lambda out: steps.rec_tune_plain(out, turns)  # noqa: E731
            inputs = ("data", "teacher") if 0 in turns and self.exp.loop.warmup_users is not None else ("data",)
            self.plain = self._add_training("plain/rec_tune", keys, inputs, _JUDGE, run, self.exp.rec_tune.processes)
        plain, rooms = self.plain, (*_JUDGE, "metrics")
        keys = (*_VALIDATOR, "scoring", *_EVALUATED)
        run = lambda out: steps.evaluate_plain(out, plain)  # noqa: E731
        self._add("plain/evaluate", keys, _there("data", plain), rooms, run)


def _there(*stages: str | None) -> Names:
    """Those that exist: the plain base is no stage."""
    return tuple(stage for stage in stages if stage)
