"""What each stage of the loop does: it gathers its inputs, says its budget, and calls its room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from trackrec.ctr.arms.log_odds import rows_to_score, texts_of_arm
from trackrec.interactions import SampleTables, build_samples, check_labels, check_splits
from trackrec.llm.packing import tree_tokens
from trackrec.metrics.intervals import Interval, metric_rows
from trackrec.metrics.texts import distinct_n, mean_words
from trackrec.recipe.experiment import UNTUNED, Experiment, Training, single_texts, targets_by_history
from trackrec.storage.parts import read_table, write_part

# Lists of a part together must stay below 2**31 bytes.
_SAMPLES_PER_PART = 1_000_000
# A history with hundreds of targets would be one packed row of ten thousand tokens, and its mask a hundred million.
TARGETS_PER_TREE = 16


class Steps:
    """Bodies of the loop's stages. Each writes into the directory it is given and returns notes for the manifest.

    Args:
        experiment: settings, tables and models.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.exp = experiment

    def data(self, out: Path) -> dict[str, Any]:
        """Ratings to histories and labelled samples."""
        exp = self.exp
        ratings = exp.dataset.read()
        rules = replace(exp.samples, threshold=exp.threshold)
        tables = build_samples(ratings, rules, exp.threshold, exp.seed)
        check_labels(tables.samples, ratings.interactions, exp.threshold)
        check_splits(tables.samples)
        for name in ("items", "users", "interactions"):
            write_part(out, name, getattr(ratings, name))
        write_part(out, "histories", tables.histories)
        for part, some in enumerate(tables.samples.iter_slices(_SAMPLES_PER_PART)):
            write_part(out, "samples", some, part)
        if ceilings := self._ceilings(tables):
            write_part(out, "metrics", ceilings)
        return {**ratings.counts, **tables.counts, "threshold": exp.threshold}

    def _ceilings(self, tables: SampleTables) -> list[dict[str, Any]]:
        """What can be reached on the rows of each held-out split, where the ratings' source knows it."""
        rows: list[dict[str, Any]] = []
        for split in ("valid", "test"):
            samples = tables.samples.filter(pl.col("split") == split)
            values = self.exp.dataset.ceilings(samples, tables.histories, self.exp.threshold)
            known = {name: Interval(value, float("nan"), float("nan"), len(samples)) for name, value in values.items()}
            rows.extend(metric_rows(known, stage="data", split=split, arm="ceiling"))
        return rows

    def teacher(self, out: Path) -> dict[str, Any]:
        """The teacher's RecCoTs for its share of the histories that play or warm V up."""
        from trackrec.distill.texts import write_teacher_texts

        exp = self.exp
        wanted = sorted({*exp.cohort.loop_histories, *exp.cohort.warmup["history_id"].to_list()})
        return write_teacher_texts(exp.teacher, exp.book, wanted, out, exp.seed, exp.loop.wrong_teacher)

    def distill(self, out: Path) -> dict[str, Any]:
        """SFT of a fresh adapter on the teacher's texts."""
        from trackrec.distill.data import DistillData
        from trackrec.distill.module import DistillModule

        exp, section = self.exp, self.exp.distill
        lm = exp.model("generator")
        name = exp.new_adapter(lm, "distill", None)
        data = DistillData(lm, exp.book, exp.directory("teacher"), seed=exp.seed, **section.data)
        data.setup("fit")
        tokens = sum(tree_tokens(entry.tree) for entry in data.examples)
        return self._fit(out, DistillModule(lm, name, **section.model), data, section, len(data.examples), tokens)

    def sample(self, out: Path, round_: int, generator: str | None) -> dict[str, Any]:
        """N draws per history of the loop."""
        wanted = sorted(set(self.exp.cohort.reward["history_id"].to_list()))
        return self.write(out, wanted, generator, round_, greedy=False)

    def greedy(self, out: Path, round_: int, generator: str | None) -> dict[str, Any]:
        """One greedy text per history that plays or is evaluated on validation rows."""
        cohort = self.exp.cohort
        # A V that warms up on the teacher's texts needs none of the distilled G.
        tuned = cohort.loop_histories if round_ or self.exp.loop.warmup_users is None else []
        wanted = sorted({*tuned, *cohort.valid["history_id"].to_list()})
        return self.write(out, wanted, generator, round_, greedy=True)

    def final_texts(self, out: Path, last: str, generator: str | None) -> dict[str, Any]:
        """Greedy texts of the last G: those of the last round, and those of the histories that took no part."""
        exp = self.exp
        have = exp.table(last, "reccots")
        wanted = exp.sample_rows if exp.loop.texts == "all" else exp.cohort.test
        rest = set(wanted["history_id"].to_list()) - set(have["history_id"].to_list())
        notes: dict[str, Any] = {}
        if rest:
            notes = self.write(out, sorted(rest), generator, exp.loop.rounds, greedy=True)
        write_part(out, "reccots", have, part=99_999)
        return {**notes, "taken_over": len(have)}

    def untuned_texts(self, out: Path) -> dict[str, Any]:
        """Greedy texts of the plain base about every history that has a final text."""
        return self.write(out, sorted(self.exp.texts("texts")), None, 0, greedy=True)

    def write(
        self, out: Path, history_ids: list[str], generator: str | None, round_: int, greedy: bool
    ) -> dict[str, Any]:
        """Texts of a G about some histories: the reccots table in ``out``, and counts for a manifest."""
        from trackrec.generate.reccot import write_reccots

        exp = self.exp
        lm = exp.model("generator")
        adapter = exp.adapter(lm, generator)
        # Arrays, since a list of numbers takes ten times the memory and all prompts are held at once.
        encoded = {key: np.asarray(lm.chat.encode_prompt(exp.book.reccot_prompt(key)), np.int32) for key in history_ids}
        exp.sampler.check_reach(lm, max(map(len, encoded.values()), default=0))
        prompt_tokens = sum(map(len, encoded.values()))
        draws = 1 if greedy else exp.sampler.n
        new_tokens = len(history_ids) * draws * exp.sampler.max_new_tokens
        notes = exp.announce("generate", len(history_ids), prompt_tokens, new_tokens)
        made = write_reccots(
            lm,
            adapter,
            exp.sampler,
            exp.book,
            history_ids,
            out,
            source=exp.pipeline.manifest(generator).content_hash[:12] if generator else UNTUNED,
            round_=round_,
            seed=exp.seed,
            greedy=greedy,
            shard_size=exp.loop.shard_histories,
            encoded=encoded,
        )
        return {**notes, **made}

    def score(self, out: Path, name: str, validator: str | None) -> dict[str, Any]:
        """V's opinion of every draw."""
        draws = self.exp.table(f"{name}/sample", "reccots")
        texts: dict[str, list[tuple[int, str | None]]] = {}
        for history_id, draw, text in draws.sort("history_id", "draw").select("history_id", "draw", "text").iter_rows():
            texts.setdefault(history_id, []).append((draw, text))
        source, round_ = draws["source"][0], draws["round"][0]
        return self._judge(out, self.exp.cohort.reward, texts, validator, source, round_)

    def _judge(
        self,
        out: Path,
        rows: pl.DataFrame,
        texts: dict[str, list[tuple[int, str | None]]],
        validator: str | None,
        source: str,
        round_: int,
        first_part: int = 0,
        per_tree: int | None = None,
    ) -> dict[str, Any]:
        """V's opinion of the rows under each text; at most ``per_tree`` targets share a packed row."""
        from trackrec.validator.score import encode_jobs, score_jobs, score_reccots

        exp = self.exp
        lm = exp.model("validator")
        adapter = exp.adapter(lm, validator)
        jobs = score_jobs(targets_by_history(rows), texts)
        if per_tree:
            jobs = [
                job._replace(targets=job.targets[start : start + per_tree])
                for job in jobs
                for start in range(0, len(job.targets), per_tree)
            ]
        entries = encode_jobs(lm, exp.book, jobs)
        trees = [entry.tree for _, entry in entries]
        lm.check_packing(max(trees, key=len), adapter)
        tokens = sum(map(tree_tokens, trees))
        notes = exp.announce("score", len(entries), tokens)
        made = score_reccots(
            lm,
            adapter,
            entries,
            out,
            source=source,
            round_=round_,
            validator=validator or "base",
            settings=exp.scoring,
            shard_size=exp.loop.shard_histories,
            first_part=first_part,
        )
        return {**made, **notes}

    def log_odds(self, out: Path, arms: Mapping[str, str | None]) -> dict[str, Any]:
        """V's opinion of the rows of the CTR nets: its log-odds are a feature of theirs.

        Rows whose labels V was tuned on, or G's texts rewarded for, are left out in every arm: their score would tell
        the label. So are rows of histories without a text.

        Args:
            out: the stage directory.
            arms: arm -> the stage of its V; None is the plain base.
        """
        exp = self.exp
        told = exp.sample_rows.filter(pl.col("history_id").is_in(list(exp.texts("texts"))))
        free = told.filter(~pl.col("sample_id").is_in(list(exp.learned_samples)))
        rows = rows_to_score(free, exp.ctr.text.score_rows, exp.seed)
        notes: dict[str, Any] = {"without_text": len(exp.sample_rows) - len(told), "learned": len(told) - len(free)}
        part, counts = 0, dict[str, Any]()
        for arm, validator in arms.items():
            made = self.judge_arm(out, rows, arm, validator, part)
            part += -(-made["histories"] // exp.loop.shard_histories)
            counts = add_counts(counts, made)
        return {**notes, "rows": len(rows), **counts}

    def judge_arm(self, out: Path, rows: pl.DataFrame, arm: str, judge: str | None, part: int = 0) -> dict[str, Any]:
        """V's opinion of rows with the texts that it reads in an arm of the CTR nets."""
        exp = self.exp
        given = texts_of_arm(exp.texts("texts"), exp.table("data", "histories"), arm, exp.seed)
        return self._judge(out, rows, single_texts(given), judge, arm, exp.loop.rounds, part, TARGETS_PER_TREE)

    def preferences(self, out: Path, round_: int) -> dict[str, Any]:
        """One preference set per history."""
        from trackrec.align.preferences import build_preferences, collect_draws

        exp, name = self.exp, f"round-{round_}"
        draws = exp.table(f"{name}/sample", "reccots")
        scored, tone = collect_draws(draws, exp.table(f"{name}/score", "scores"), exp.sample_rows)
        made = build_preferences(scored, exp.sets, draws["source"][0], round_, exp.seed)
        write_part(out, "preferences", made.rows)
        return {**made.counts, "reward_label_correlation": tone}

    def align(self, out: Path, rounds: Sequence[int], generator: str | None) -> dict[str, Any]:
        """S-DPO of a copy of the generator that sampled, on the sets of one round, or of several that it drew for."""
        from trackrec.align.data import AlignData
        from trackrec.align.module import SoftmaxDPOModule, write_references

        exp, section = self.exp, self.exp.align
        lm = exp.model("generator")
        adapter = exp.new_adapter(lm, f"round-{rounds[-1]}-align", generator)
        names = [f"round-{number}" for number in rounds]
        directories = [(exp.directory(f"{name}/preferences"), exp.directory(f"{name}/sample")) for name in names]
        data = AlignData(lm, exp.book, directories, seed=exp.seed, **section.data)
        data.setup("fit")
        lm.check_packing(max((entry.tree for entry in data.examples), key=len), adapter)
        module = SoftmaxDPOModule(lm, adapter, **section.model)
        write_references(module, data, section.trainer(), out)
        tokens = sum(tree_tokens(entry.tree) for entry in data.examples)
        return self._fit(out, module, data, section, len(data.examples), tokens)

    def warm_up(self, out: Path) -> dict[str, Any]:
        """Rec-Tuning of a fresh V before round 1, on greedy texts or, with ``loop.warmup_users``, the teacher's."""
        from_teacher = self.exp.loop.warmup_users is not None
        texts = self.exp.texts("teacher" if from_teacher else "warmup/greedy")
        rows = self.exp.tuning_rows([0])
        if not len(rows):
            raise ValueError("the teacher wrote about no history that warms V up: raise teacher.init_args.fraction.")
        return self._tune(out, "warmup", rows, texts, None, [0])

    def rec_tune(self, out: Path, rounds: Sequence[int], start: str | None) -> dict[str, Any]:
        """Rec-Tuning of V on the rows of one round or several, with the greedy texts of the last."""
        name = f"round-{rounds[-1]}"
        texts = self.exp.texts(f"{name}/greedy")
        return self._tune(out, name, self.exp.tuning_rows(rounds), texts, start, rounds, self.exp.loop.validator_lr)

    def rec_tune_plain(self, out: Path, turns: Sequence[int]) -> dict[str, Any]:
        """Rec-Tuning of V on the rows of some turns without any text."""
        rows = self.exp.tuning_rows(turns)
        return self._tune(out, "plain", rows, dict.fromkeys(rows["history_id"].to_list()), None, turns)

    def _tune(
        self,
        out: Path,
        name: str,
        rows: pl.DataFrame,
        texts: Mapping[str, str | None],
        start: str | None,
        turns: Sequence[int],
        lr: float | None = None,
    ) -> dict[str, Any]:
        from trackrec.validator.data import RecTuneData
        from trackrec.validator.module import RecTuningModule

        exp, section = self.exp, self.exp.rec_tune
        lm = exp.model("validator")
        adapter = exp.new_adapter(lm, f"{name}-rec_tune", start)
        targets = targets_by_history(rows)
        options = {**section.data, "samples_per_history": self.exp.tuning_limit * len(turns)}
        data = RecTuneData(lm, exp.book, texts, targets, seed=exp.seed + max(turns), **options)
        data.setup("fit")
        lm.check_packing(max((entry.tree for entry in data.examples), key=len), adapter)
        tokens = sum(tree_tokens(entry.tree) for entry in data.examples)
        module = RecTuningModule(lm, adapter, **section.model | ({} if lr is None else {"lr": lr}))
        notes = self._fit(out, module, data, section, len(data.examples), tokens)
        return {**notes, "tuning_rows": len(rows)}

    def _fit(self, out: Path, module: Any, data: Any, section: Training, examples: int, tokens: int) -> dict[str, Any]:
        from trackrec.llm.training.training import fit_adapter

        trainer_args = section.trainer()
        epochs = trainer_args.get("max_epochs") or 1
        notes = self.exp.announce("train", examples, tokens * epochs)
        accumulated = trainer_args.get("accumulate_grad_batches") or 1
        size, unit = data.batch_size, "examples"
        if tokens_each := getattr(data, "batch_tokens", None):
            size, unit = tokens_each, "tokens"
        if section.processes * accumulated > 1:
            self.exp.say(
                f"    effective batch {size * accumulated * section.processes}: {size} {unit}, "
                f"accumulated {accumulated} times, in {section.processes} process(es)"
            )
        trainer = fit_adapter(module, data, trainer_args, out, seed=data.seed)
        effective = size * trainer.accumulate_grad_batches * trainer.world_size
        return {
            **module.last_values,
            **notes,
            "examples": examples,
            "effective_batch" if unit == "examples" else "effective_batch_tokens": effective,
            "optimizer_steps": trainer.global_step,
        }

    def judge_and_measure(
        self,
        out: Path,
        rows: pl.DataFrame,
        texts: Mapping[str, str | None],
        validator: str | None,
        source: str,
        round_: int,
        first_part: int,
    ) -> tuple[dict[str, Any], dict[str, Interval]]:
        """Score rows with one text per history, and measure V on them."""
        from trackrec.validator.evaluate import judged_rows, validator_metrics

        wanted = set(rows["history_id"].to_list())
        given = single_texts({key: text for key, text in texts.items() if key in wanted})
        notes = self._judge(out, rows, given, validator, source, round_, first_part)
        scored = judged_rows(read_table(out, "scores"), rows, validator or "base", source)
        return notes, validator_metrics(scored, self.exp.seed)

    def evaluate(self, out: Path, name: str, round_: int, judge: str | None, tuned: str | None) -> dict[str, Any]:
        """What the round changed, on validation rows: G judged by the V that scored it, V by its answers."""
        greedy = self.exp.table(f"{name}/greedy", "reccots")
        source, stage = greedy["source"][0], f"{name}/evaluate"
        texts = self.exp.texts(f"{name}/greedy")
        validators = {"judge": judge} if judge == tuned else {"judge": judge, "tuned": tuned}
        notes: dict[str, Any] = {}
        rows: list[dict[str, Any]] = []
        for place, (arm, validator) in enumerate(validators.items()):
            first = 10_000 * place
            one, values = self.judge_and_measure(out, self.exp.cohort.valid, texts, validator, source, round_, first)
            notes = add_counts(notes, one)
            rows.extend(metric_rows(values, stage=stage, round=round_, split="valid", arm=arm))
        rows.extend(metric_rows(text_metrics(greedy), stage=stage, round=round_, split="all", arm="texts"))
        write_part(out, "metrics", rows)
        return notes

    def evaluate_plain(self, out: Path, tuned: str | None) -> dict[str, Any]:
        """V without RecCoT on the same validation rows: untuned, and tuned on the same rows as the others, if any."""
        valid = self.exp.cohort.valid
        texts = dict.fromkeys(valid["history_id"].to_list())
        validators = {"untuned": None, "plain": tuned} if tuned else {"untuned": None}
        notes: dict[str, Any] = {}
        rows: list[dict[str, Any]] = []
        for place, (arm, validator) in enumerate(validators.items()):
            one, values = self.judge_and_measure(out, valid, texts, validator, "none", 0, 10_000 * place)
            notes = add_counts(notes, one)
            rows.extend(metric_rows(values, stage="plain/evaluate", split="valid", arm=arm))
        write_part(out, "metrics", rows)
        return notes


def add_counts(notes: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """What several turns of V over the same histories note together: their questions and tokens add up."""
    return {**more, **{key: notes.get(key, 0) + more[key] for key in ("questions", "tokens")}}


def text_metrics(texts: pl.DataFrame) -> dict[str, Interval]:
    """Diversity, length and cut share of some texts."""
    words = texts["text"].to_list()
    values = {
        "distinct_2": distinct_n(words, 2),
        "mean_words": mean_words(words),
        "cut_share": float((texts["finish_reason"] == "length").mean() or 0.0),  # type: ignore[arg-type]
    }
    nan = float("nan")
    return {name: Interval(value, nan, nan, len(words)) for name, value in values.items()}
