"""From the final RecCoTs to the recommender: embed, ctr, and the one reading of the test split."""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from trackrec.metrics.intervals import metric_rows
from trackrec.pipeline.stage import Stage
from trackrec.recipe.experiment import LOG_ODDS, UNTUNED, Experiment
from trackrec.recipe.loop import GENERATE, TESTED, TUNED, Loop
from trackrec.recipe.steps import Steps, add_counts
from trackrec.storage.parts import read_table, write_part
from trackrec.storage.schemas import to_arrow

TEST_READS = "test_reads.jsonl"


class Recommend:
    """Adds the stages after the loop.

    Args:
        experiment: settings, tables and models.
        loop: its stages are already added.
        steps: shared bodies of stages.
    """

    def __init__(self, experiment: Experiment, loop: Loop, steps: Steps) -> None:
        self.exp, self.loop, self.steps = experiment, loop, steps

    def add_stages(self) -> None:
        """untuned, embed and log_odds where the CTR nets read them, and ctr."""
        add = self.exp.pipeline.add
        texts = ["data", "teacher", "texts"]
        if UNTUNED in self.exp.text_sources:
            keys = ("backbone", "prompts", "sampler")
            run, size = self.steps.untuned_texts, self.exp.loop.shard_histories
            texts.append(add(Stage(UNTUNED, keys, ("data", "texts"), GENERATE, run, part_size=size)))
        keys = ("embed", "ctr.arms", "prompts")  # the arm "prompt" reads the history as the prompts show it
        if "embed" in self.exp.ctr_stages():
            add(Stage("embed", keys, tuple(texts), ("embed", "prompts"), self._embed))
        if LOG_ODDS in self.exp.ctr_stages():
            self._add_log_odds()
        ctr = ("ctr", "loop.users", "loop.warmup_users", "loop.disjoint")  # the loop's users are a slice
        rooms = ("ctr", "metrics", "recipe/cohort.py")
        add(Stage("ctr", ctr, self.exp.ctr_stages(), rooms, self._ctr, self.exp.threshold_of_data))

    def _add_log_odds(self) -> None:
        """The stage in which the last V, or the one without texts, scores the rows of the CTR nets."""
        from trackrec.ctr.arms.arms import scored_arms

        arms = {arm: self._judge_of(arm) for arm in scored_arms(self.exp.ctr.arms)}
        keys = ("backbone", "validator_backbone", "prompts", "scoring", "rec_tune.data", "ctr.text.score_rows", *TUNED)
        rooms = ("llm", "validator", "prompts", "ctr/arms/log_odds.py", "recipe/cohort.py")
        self.exp.pipeline.add(
            Stage(
                LOG_ODDS,
                keys,
                ("data", "texts", *(stage for stage in dict.fromkeys(arms.values()) if stage)),
                rooms,
                lambda out: self.steps.log_odds(out, arms),
                lambda: {"arms": " ".join(arms)},
                part_size=self.exp.loop.shard_histories,
            )
        )

    def _judge_of(self, arm: str) -> str | None:
        """The stage of the V that an arm asks; None is the plain base."""
        return self.loop.plain if arm == "plain" else self.loop.validator

    def request_log_odds(self, rows: pl.DataFrame, arm: str) -> dict[str, dict[str, float]]:
        """V's log-odds of requests as the nets of an arm read them: arm -> sample -> log-odds, for `CTRInputs`.

        V is asked as in the stage, once for each user and item. There is no value where the history has no text, nor
        where V was tuned on the user's rating of the item, or G's texts rewarded for it.

        Args:
            rows: `trackrec.serving.requests.request_rows`.
            arm: any but ``none``.
        """
        from trackrec.ctr.arms.arms import log_odds_of, source_of

        exp, asked = self.exp, arm if arm == "shuffled" else source_of(arm)
        told = rows.filter(pl.col("history_id").is_in(list(exp.texts("texts"))))
        learned = exp.sample_rows.filter(pl.col("sample_id").is_in(list(exp.learned_samples)))
        free = told.join(learned, on=["user_id", "item_id"], how="anti", maintain_order="left")
        if arm == "random" or not len(free):  # noise stands in the place of V's answers
            return {asked: dict.fromkeys(free["sample_id"].to_list(), 0.0)}
        pair = ["history_id", "item_id"]
        once = free.unique(pair, keep="first", maintain_order=True)
        with tempfile.TemporaryDirectory() as folder:
            self.steps.judge_arm(Path(folder), once, asked, self._judge_of(asked))
            found = log_odds_of(read_table(Path(folder), "scores"), set())
        answers = once.select(*pair, asked_as="sample_id")
        same = free.join(answers, on=pair, how="left", maintain_order="left").select("sample_id", "asked_as")
        return {asked: {sample: found[other] for sample, other in same.iter_rows()}}

    def add_test(self) -> None:
        """The stage that reads the test split."""
        keys = ("backbone", "validator_backbone", "prompts", "scoring", *TESTED)
        if self._without_loop():
            self.exp.pipeline.add(Stage("test", (), ("data", "ctr"), ("metrics", "ctr"), self._test))
            return
        inputs = ("data", "texts", "ctr", *(stage for stage in (self.loop.validator, self.loop.plain) if stage))
        ctr = ("ctr/arms/verdict.py", "ctr/arms/slices.py")
        rooms = ("llm", "validator", "prompts", "metrics", *ctr, "recipe/cohort.py")
        size = self.exp.loop.shard_histories
        self.exp.pipeline.add(Stage("test", keys, inputs, rooms, self._test, part_size=size))

    def _without_loop(self) -> bool:
        """Whether the run is of a recommender from ratings alone, without V's answers to test."""
        return self.exp.text_sources == {"none"} and self.exp.pipeline.done("texts") is None

    def _embed(self, out: Path) -> dict[str, Any]:
        from trackrec.embed.encode import embed_texts

        earlier = self.exp.directory("embed")
        texts = [text for field in self.exp.text_fields().values() for text in field.values()]
        return embed_texts(texts, self.exp.embed, out, earlier if earlier.exists() else None)

    def _ctr(self, out: Path) -> dict[str, Any]:
        from trackrec.ctr.stage import run_ctr

        return run_ctr(self.exp.ctr_inputs(), self.exp.ctr, out, self.exp.seed, self.exp.say)

    def _test(self, out: Path) -> dict[str, Any]:
        """V with and without RecCoT, and every CTR arm, on test rows."""
        from trackrec.ctr.arms.slices import sample_slices
        from trackrec.ctr.arms.verdict import arm_metrics

        exp = self.exp
        if not (exp.sample_rows["split"] == "test").any():
            raise ValueError("this run has no test rows. Set samples.test above 0, or name a test file, and fit again.")
        reads = self._count_read()
        notes, found = ({}, []) if self._without_loop() else self._test_validator(out)
        predictions = exp.table("ctr", "predictions")
        slices = sample_slices(exp.ctr_inputs())
        found.extend(arm_metrics(predictions, exp.sample_rows, "test", "test", exp.seed, slices))
        write_part(out, "metrics", found)
        return {**notes, "test_reads": reads}

    def _test_validator(self, out: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """V on test rows: counts for the manifest, and rows of the metrics table."""
        exp = self.exp
        texts: dict[str, str | None] = dict(exp.texts("texts"))
        rows = exp.cohort.test
        nothing = dict.fromkeys(rows["history_id"].to_list())
        jobs = [
            ("reccot", self.loop.validator, texts),
            *([("plain", self.loop.plain, nothing)] if self.loop.plain else []),
            ("untuned", None, nothing),
        ]
        found: list[dict[str, Any]] = []
        notes: dict[str, Any] = {}
        for place, (arm, validator, given) in enumerate(jobs):
            source = "texts" if arm == "reccot" else "none"
            one, values = self.steps.judge_and_measure(out, rows, given, validator, source, -1, 10_000 * place)
            notes = add_counts(notes, one)
            found.extend(metric_rows(values, stage="test", split="test", arm=f"validator/{arm}"))
        return notes, found

    def _count_read(self) -> int:
        """Note that test labels are read now; returns how often that has happened in this run directory."""
        path = self.exp.pipeline.run_dir / TEST_READS
        with path.open("a") as file:
            file.write(json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds")}) + "\n")
        return test_reads(self.exp.pipeline.run_dir)


def test_reads(run_dir: Path) -> int:
    """How often the test split was read in a run directory."""
    path = run_dir / TEST_READS
    return len(path.read_text().splitlines()) if path.exists() else 0


def all_metrics(exp: Experiment) -> pl.DataFrame:
    """The metrics of every done stage of a run, as one table."""
    frames = [
        exp.table(stage.name, "metrics")
        for stage in exp.pipeline.stages
        if exp.pipeline.done(stage.name) and (exp.directory(stage.name) / "metrics").is_dir()
    ]
    return pl.concat([pl.DataFrame(to_arrow("metrics", [])), *frames])
