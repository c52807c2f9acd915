"""Stage ``select``: which of the alignment's adapters becomes the round's G, by its texts about users who choose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from trackrec.metrics.intervals import Interval, metric_rows, paired_bootstrap
from trackrec.metrics.scores import balanced_mean
from trackrec.recipe.cohort import cohort_of
from trackrec.recipe.models import language_model, new_adapter
from trackrec.recipe.names import DATA, existing, in_round
from trackrec.recipe.scoring import BASE, score_texts, single_texts
from trackrec.recipe.stage import RecipeStage
from trackrec.recipe.stage_keys import EVALUATED, GENERATOR, VALIDATOR
from trackrec.recipe.writing import write_texts
from trackrec.storage.atomic import write_atomic
from trackrec.storage.parts import read_table, write_part
from trackrec.validator.evaluate import scored_rows_of, validator_metrics

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment

START = "start"
"""The arm of the G that sampled the round's draws."""
_RESAMPLES = 500


@dataclass(frozen=True)
class Select(RecipeStage):
    """The G of a round: the candidate whose greedy texts V rewards most, or with ``loop.accept: better`` the start.

    The V that scored the round's draws scores texts about the users of `Cohort.choose`. The start is the G that sampled
    the draws. Its reward and those of the candidates are in the metrics table, by ``arm``, with each candidate's paired
    difference to the start. A candidate is better where that difference is above 0, whatever its interval says; of
    equal ones the earlier is taken. What an alignment published that was skipped is published as it is.

    Attributes:
        round: whose texts are chosen from.
        aligned: the stage with the candidates.
        start: the stage of the G that sampled the round's draws; None is the base model.
        scorer: the stage of the V that scored them; None is the base model.
    """

    round: int
    aligned: str
    start: str | None
    scorer: str | None
    by_part = True
    keys = (*GENERATOR, *VALIDATOR, "sampler", "scoring", "loop.accept", *EVALUATED)

    @property
    def name(self) -> str:
        """See `RecipeStage.name`."""
        return in_round(self.round, "select")

    @property
    def inputs(self) -> tuple[str, ...]:
        """See `RecipeStage.inputs`."""
        return existing(DATA, self.aligned, self.start, self.scorer)

    def classes(self, exp: Experiment) -> tuple[str, ...]:
        """The engine that reads V's answers."""
        return (exp.scoring.reader_path,)

    def run(self, exp: Experiment, out: Path) -> dict[str, Any]:
        """See `RecipeStage.run`."""
        from trackrec.align.candidates import candidate_folders

        directory = exp.directory(self.aligned)
        if exp.pipeline.manifest(self.aligned).notes.get("skipped"):
            self._publish(exp, directory / "adapter", out)
            return {"taken": START, "reason": "not aligned"}
        rows = cohort_of(exp).choose
        folders = {f"candidate-{place}": one for place, one in enumerate(candidate_folders(directory), 1)}
        scored = {arm: self._score(exp, out / arm, rows, arm, folders.get(arm, "adapter")) for arm in (START, *folders)}
        metrics: list[dict[str, Any]] = []
        rewards: dict[str, float] = {}
        for arm, found in scored.items():
            values = {"reward": validator_metrics(found, exp.seed)["reward"]}
            rewards[arm] = values["reward"].value
            if arm != START:
                values["reward_minus_start"] = difference(found, scored[START], exp.seed)
            metrics += metric_rows(values, stage=self.name, round=self.round, split="valid", arm=arm)
        write_part(out, "metrics", metrics)
        taken, reason = choose(rewards, exp.loop.accept)
        if taken == START:
            exp.say(f"    not accepted: {reason}")
        self._publish(exp, directory / folders[taken] if taken != START else None, out)
        return {"taken": taken, "reason": reason, "histories": rows["history_id"].n_unique(), "rewards": rewards}

    def _score(self, exp: Experiment, out: Path, rows: pl.DataFrame, arm: str, folder: str) -> pl.DataFrame:
        """V's scores of the rows with one G's greedy texts."""
        histories = sorted(set(rows["history_id"].to_list()))
        generator = self.start if arm == START else self.aligned
        write_texts(exp, out, histories, generator, self.round, greedy=True, folder=folder)
        texts = read_table(out, "reccots", columns=("history_id", "text", "source"))
        source = texts["source"][0]
        given = single_texts(dict(texts.select("history_id", "text").iter_rows()))
        score_texts(exp, out, rows, given, self.scorer, source, self.round)
        return scored_rows_of(read_table(out, "scores"), rows, self.scorer or BASE, source)

    def _publish(self, exp: Experiment, source: Path | None, out: Path) -> None:
        """Write an adapter as the stage's; None is the start's."""
        if source is None and self.start is None:
            lm = language_model(exp, "generator")
            lm.save_adapter(out / "adapter", new_adapter(exp, lm, self.name.replace("/", "-"), None))
            return
        source = source or exp.directory(str(self.start)) / "adapter"
        for path in sorted(source.iterdir()):
            write_atomic(out / "adapter" / path.name, path.read_bytes())


def choose(rewards: Mapping[str, float], accept: str) -> tuple[str, str]:
    """The arm that is taken, and why.

    Args:
        rewards: of the start and of the candidates, by arm.
        accept: ``loop.accept``.
    """
    best = max((arm for arm in rewards if arm != START), key=rewards.__getitem__)  # of equal ones the first
    found = f"{best} has the highest reward of the candidates, {rewards[best]:.4f}; the start has {rewards[START]:.4f}"
    return (START if accept == "better" and not rewards[best] > rewards[START] else best), found


def difference(ours: pl.DataFrame, start: pl.DataFrame, seed: int) -> Interval:
    """The reward of a candidate's texts minus that of the start's on the same rows, with its interval over users.

    Raises:
        ValueError: the rows are not the same.
    """
    if ours["sample_id"].to_list() != start["sample_id"].to_list():
        raise ValueError("rewards are compared on the same rows only")
    users, labels = ours["user_id"].to_numpy(), ours["label"].to_numpy()
    ours_p, start_p = (rows["p_true"].to_numpy().astype(np.float64) for rows in (ours, start))
    return paired_bootstrap(balanced_mean, users, labels, ours_p, start_p, n_resamples=_RESAMPLES, seed=seed)
