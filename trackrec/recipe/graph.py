"""The recipe's stages and how they follow from each other, for every shape of the loop.

This is the one place that knows the order. It needs only the settings, so that a report can ask which stages a run
should have without loading anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from trackrec.ctr.arms.arm import parse_arms, scored_arms, text_sources
from trackrec.pipeline.stage import Stage
from trackrec.prompts.settings import PromptSettings
from trackrec.recipe.arm_texts import ctr_stages
from trackrec.recipe.cohort import tuning_turns
from trackrec.recipe.comparisons import Comparison
from trackrec.recipe.names import COMPARISONS, EMBED, LOG_ODDS, PLAIN, TEST, TEXTS, UNTUNED, in_round
from trackrec.recipe.settings import LoopSettings, compared_readers
from trackrec.recipe.stage import RecipeStage
from trackrec.recipe.stages.align import Align
from trackrec.recipe.stages.compare import EvaluateCompared, TuneCompared
from trackrec.recipe.stages.compared_texts import TeacherOnEvaluated, UntunedForValidator
from trackrec.recipe.stages.ctr import CTRNets
from trackrec.recipe.stages.data import Data
from trackrec.recipe.stages.distill import Distill
from trackrec.recipe.stages.embed import Embed
from trackrec.recipe.stages.evaluate import Evaluate
from trackrec.recipe.stages.generate import FinalTexts, Greedy, Sample, UntunedTexts
from trackrec.recipe.stages.log_odds import LogOdds
from trackrec.recipe.stages.preferences import Preferences
from trackrec.recipe.stages.rec_tune import RecTune, WarmUp
from trackrec.recipe.stages.score import Score
from trackrec.recipe.stages.select import Select
from trackrec.recipe.stages.teacher import TeacherTexts
from trackrec.recipe.stages.test import ReadTest
from trackrec.recipe.stages.test_ratings import ReadTestRatings

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment


@dataclass
class Graph:
    """The stages of a run in the order in which they run, and the names of the last models.

    Attributes:
        stages: all but ``test``.
        generator: the stage of the last G; None is the base model.
        validator: the stage of the last V, likewise.
        compared: what other Vs read, and the stage of each; None where no V is tuned.
    """

    stages: list[RecipeStage] = field(default_factory=list)
    generator: str | None = None
    validator: str | None = None
    compared: list[tuple[Comparison, str | None]] = field(default_factory=list)

    @property
    def plain(self) -> str | None:
        """The stage of the V that is tuned without texts; None where none is."""
        return next((stage for comparison, stage in self.compared if comparison.name == PLAIN), None)

    def add(self, stage: RecipeStage) -> str:
        """Append a stage; returns its name."""
        self.stages.append(stage)
        return stage.name

    def validator_of(self, arm: str) -> str | None:
        """The stage of the V that scores for an arm; None is the base model."""
        return self.plain if arm == "plain" else self.validator


def build_graph(loop: LoopSettings, arms: Sequence[str], use: str, prompts: PromptSettings | None = None) -> Graph:
    """The stages that some settings ask for.

    Args:
        loop: the section ``loop``.
        arms: ``ctr.arms``.
        use: ``ctr.text.use``.
        prompts: the section ``prompts``, which says whether G and V read the same history; None is its defaults.

    Raises:
        SettingError: an arm is unknown.
    """
    parse_arms(arms)
    names = compared_readers(loop, prompts or PromptSettings())
    graph = Graph()
    graph.add(Data())
    graph.add(TeacherTexts())
    if "teacher" in names:
        graph.add(TeacherOnEvaluated())
    if loop.distill:
        graph.generator = graph.add(Distill())
    graph.add(Greedy(0, graph.generator))
    if loop.warmup:
        graph.validator = graph.add(WarmUp(from_teacher=loop.warmup_users is not None))
    evaluated = graph.add(Evaluate(0, graph.validator, graph.validator))
    numbers = tuple(range(1, loop.rounds + 1))
    for rounds in ((number,) for number in numbers) if loop.alternate else [numbers]:
        evaluated = _add_turn(graph, loop, rounds, evaluated)
    _add_comparisons(graph, loop, names)
    graph.add(FinalTexts(loop.rounds, graph.generator))
    _add_recommender(graph, arms, use)
    return graph


def _add_turn(graph: Graph, loop: LoopSettings, rounds: tuple[int, ...], evaluated: str) -> str:
    """G samples, V scores, S-DPO moves G, G writes, Rec-Tuning moves V; for one round, or for all of them at once.

    The stages bear the name of the last of the rounds; texts are drawn and scored for each.

    Args:
        graph: gets the stages.
        loop: the settings.
        rounds: of this turn.
        evaluated: the stage that evaluated the V with which the turn begins.

    Returns:
        The stage that evaluates the V with which it ends.
    """
    scorer, last = graph.validator, rounds[-1]
    if loop.align:
        for number in rounds:
            graph.add(Sample(number, graph.generator))
            graph.add(Score(number, scorer))
            graph.add(Preferences(number))
        reading = None if loop.min_reading is None else evaluated
        start = graph.generator
        graph.generator = aligned = graph.add(Align(rounds, start, reading))
        if loop.selects:
            graph.generator = graph.add(Select(last, aligned, start, scorer))
    graph.add(Greedy(last, graph.generator))
    if loop.rec_tune:
        start = scorer if loop.validator_start == "previous" else None
        graph.validator = graph.add(RecTune(rounds, start))
    return graph.add(Evaluate(last, scorer, graph.validator))


def _add_comparisons(graph: Graph, loop: LoopSettings, names: Sequence[str]) -> None:
    """The V without text and the others that the V with RecCoT is compared with, on the rows that it has seen."""
    turns, greedy = tuple(tuning_turns(loop)), in_round(loop.rounds, "greedy")
    warmed_by_teacher = 0 in turns and loop.warmup_users is not None
    for name in (PLAIN, *names):
        comparison = Comparison(name, greedy)
        if name == "untuned":
            graph.add(UntunedForValidator(turns, warmed_by_teacher))
        tuned = graph.add(TuneCompared(comparison, turns, warmed_by_teacher)) if turns else None
        graph.add(EvaluateCompared(comparison, tuned))
        graph.compared.append((comparison, tuned))


def _add_recommender(graph: Graph, arms: Sequence[str], use: str) -> None:
    """From the final texts to the CTR nets."""
    sources, reads = text_sources(arms), ctr_stages(arms, use)
    if UNTUNED in sources:
        graph.add(UntunedTexts())
    if EMBED in reads:
        graph.add(Embed(reads_untuned=UNTUNED in sources))
    if LOG_ODDS in reads:
        graph.add(LogOdds(tuple((arm, graph.validator_of(arm)) for arm in scored_arms(arms))))
    graph.add(CTRNets(reads))


def graph_of(exp: Experiment) -> Graph:
    """The graph of a run."""
    return build_graph(exp.loop, exp.ctr.arms, exp.ctr.text.use, exp.prompts)


def stage_names(config: Mapping[str, Any]) -> list[str]:
    """Names of the stages of a whole run, ``test`` left out, from its resolved configuration as plain types.

    Keys that an older configuration lacks have today's defaults, and keys that exist no more are ignored: this names
    stages and runs none.
    """
    loop, prompts = _saved_settings(config)
    ctr = config.get("ctr") or {}
    graph = build_graph(loop, ctr.get("arms", ("reccot",)), (ctr.get("text") or {}).get("use", "dense"), prompts)
    return [stage.name for stage in graph.stages]


def configured_comparisons(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The comparisons of a run, by `trackrec.recipe.names.COMPARISONS`, from its configuration as in `stage_names`."""
    return compared_readers(*_saved_settings(config))


def _saved_settings(config: Mapping[str, Any]) -> tuple[LoopSettings, PromptSettings]:
    loop = LoopSettings(**_known(config["loop"], LoopSettings))
    return loop, PromptSettings.of(_known(config.get("prompts") or {}, PromptSettings))


def _known(section: Mapping[str, Any], settings: type[Any]) -> dict[str, Any]:
    """The keys of a section that its class has."""
    names = {one.name for one in fields(settings)}
    return {key: value for key, value in section.items() if key in names}


def every_stage(rounds: int) -> list[str]:
    """Names of all stages that any configuration of so many rounds has, in order."""
    loop = LoopSettings(rounds=rounds, accept="better", comparisons=list(COMPARISONS))
    names = build_graph(loop, ["reccot", UNTUNED], "dense").stages
    log_odds = build_graph(replace(loop, comparisons=[]), ["reccot"], "log_odds").stages
    return [*(stage.name for stage in names[:-1]), *(stage.name for stage in log_odds[-2:]), TEST]


def add_stages(exp: Experiment) -> Graph:
    """Put the stages of a run into its pipeline."""
    graph = graph_of(exp)
    for stage in graph.stages:
        exp.pipeline.add(pipeline_stage(exp, stage))
    return graph


def add_test(exp: Experiment, graph: Graph) -> None:
    """Put the stage that reads the test split into the pipeline."""
    exp.pipeline.add(pipeline_stage(exp, test_stage(exp, graph)))


def test_stage(exp: Experiment, graph: Graph) -> RecipeStage:
    """The stage that reads the test split; without a loop it measures the arms only."""
    if text_sources(exp.ctr.arms) == {"none"} and exp.pipeline.done(TEXTS) is None:
        return ReadTestRatings()
    return ReadTest(graph.validator, tuple(graph.compared))


def pipeline_stage(exp: Experiment, stage: RecipeStage) -> Stage:
    """A stage of the recipe as the engine runs it."""
    return Stage(
        name=stage.name,
        keys=stage.keys,
        inputs=stage.inputs,
        module=type(stage).__module__,
        run=partial(stage.run, exp),
        classes=stage.classes(exp),
        outside=partial(stage.outside, exp),
        processes=exp.trainings[stage.section].processes if stage.section else 1,
        part_size=exp.loop.shard_histories if stage.by_part else 0,
    )
