"""One run: its settings, its tables and its models. The recipe's stages are methods on top of this."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from trackrec.interactions import RatingSource, SampleRules
from trackrec.pipeline.pipeline import Pipeline
from trackrec.pipeline.stage import StageError
from trackrec.prompts.book import PromptBook
from trackrec.prompts.settings import PromptSettings
from trackrec.recipe.cohort import Cohort, select_cohort, tuning_rows
from trackrec.recipe.settings import LoopSettings
from trackrec.storage.parts import read_table

if TYPE_CHECKING:
    from trackrec.align.preferences import PreferenceSettings
    from trackrec.ctr.arms.assemble import CTRInputs
    from trackrec.ctr.plan import CTRPlan
    from trackrec.distill.teacher import Teacher
    from trackrec.embed.encode import EmbedSettings
    from trackrec.llm.backbone import LanguageModel
    from trackrec.llm.loading import BackboneSettings
    from trackrec.llm.sampling.sampler import Sampler
    from trackrec.validator.score import ScoreSettings

log = logging.getLogger(__name__)

Target = tuple[str, str, int]  # sample_id, item_id, label
LOG_ODDS = "log_odds"  # the stage in which V scores the rows of the CTR nets
UNTUNED = "untuned"  # the stage in which the plain base writes, and the source of its texts


class Training(NamedTuple):
    """Arguments of one training stage; the trainer's are built anew for each use, since callbacks hold state."""

    model: dict[str, Any]
    data: dict[str, Any]
    trainer: Callable[[], dict[str, Any]]
    processes: int = 1


@dataclass
class Experiment:
    """Everything that a config says, as objects, and what the stages share."""

    pipeline: Pipeline
    dataset: RatingSource
    samples: SampleRules
    prompts: PromptSettings
    backbone: BackboneSettings
    validator_backbone: BackboneSettings | None
    sampler: Sampler
    teacher: Teacher
    loop: LoopSettings
    scoring: ScoreSettings
    sets: PreferenceSettings
    distill: Training
    align: Training
    rec_tune: Training
    embed: EmbedSettings
    ctr: CTRPlan
    _models: dict[str, LanguageModel] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """Of the whole run."""
        return self.pipeline.seed

    def say(self, text: str) -> None:
        """One line for the person who watches."""
        self.pipeline.say(text)

    def directory(self, stage: str) -> Path:
        """Where a stage's result lies."""
        return self.pipeline.directory(stage)

    # -- tables -----------------------------------------------------------------------------------------------

    def table(self, stage: str, name: str) -> pl.DataFrame:
        """A table of a done stage."""
        return read_table(self.directory(stage), name)

    @property
    def threshold(self) -> float:
        """A rating above it is a like. As exact as the tables' ratings, so that one equal to it is never above it."""
        own = self.samples.threshold
        return float(np.float32(self.dataset.threshold if own is None else own))

    @cached_property
    def sample_rows(self) -> pl.DataFrame:
        """The samples table."""
        return self.table("data", "samples")

    @cached_property
    def book(self) -> PromptBook:
        """Histories, items and users for the prompts."""
        histories, items, users = (self.table("data", name) for name in ("histories", "items", "users"))
        return PromptBook(histories, items, users, self.threshold, self.prompts)

    @cached_property
    def cohort(self) -> Cohort:
        """Who plays, and with which rows."""
        return select_cohort(self.sample_rows, self.loop, self.seed)

    def texts(self, stage: str) -> dict[str, str]:
        """The one text per history that a greedy stage wrote."""
        return texts_in(self.directory(stage))

    @property
    def text_sources(self) -> set[str]:
        """What the arms of the CTR stage are made of."""
        return {part for arm in self.ctr.arms for part in arm.split("+")}

    def ctr_stages(self) -> tuple[str, ...]:
        """The stages that `ctr_inputs` reads: the data alone where no arm has a text."""
        if self.text_sources == {"none"}:
            return ("data",)
        return ("data", "texts", LOG_ODDS if self.ctr.text.use == "log_odds" else "embed")

    def threshold_of_data(self) -> dict[str, str]:
        """The threshold that the tables were made with: the nets' features hold it, the tables' content may not."""
        manifest = self.pipeline.done("data")
        return {"threshold": str(manifest.notes["threshold"])} if manifest else {}

    def check_nets(self) -> None:
        """Whether the nets were trained on what `ctr_inputs` reads.

        Raises:
            StageError: a stage isn't done, is damaged, or was made again after the nets.
        """
        made_of = self.pipeline.manifest("ctr").inputs
        for stage in self.ctr_stages():
            if made_of.get(stage) != self.pipeline.manifest(stage).content_hash:
                raise StageError(
                    f"the nets in {self.directory('ctr')} were not trained on the {stage} that stands there now. Run "
                    "`trackrec fit` first."
                )

    def ctr_inputs(self) -> CTRInputs:
        """What the CTR stage reads."""
        from trackrec.ctr.arms.assemble import CTRInputs
        from trackrec.embed.encode import vectors_of

        vectors = {}
        for name, texts in self.text_fields().items():
            matrix = vectors_of(self.directory("embed"), list(texts.values()))
            vectors[name] = dict(zip(texts, matrix, strict=True))
        seen = None
        if self.text_sources != {"none"}:  # ratings alone need no cohort, and may not have the rows of one
            cohort = self.cohort
            tuned = pl.concat([rows["user_id"] for rows in (cohort.reward, cohort.tune, cohort.warmup)])
            seen = frozenset(tuned.to_list())
        made_with = self.pipeline.manifest("data").notes
        return CTRInputs(
            samples=self.sample_rows,
            histories=self.table("data", "histories"),
            items=self.table("data", "items"),
            interactions=self.table("data", "interactions"),
            threshold=float(made_with["threshold"]),
            vectors=vectors,
            log_odds=self._log_odds(),
            seen_users=seen,
            published_lists="published_lists" in made_with,
        )

    def _log_odds(self) -> dict[str, dict[str, float]]:
        """V's log-odds of the samples by arm, where the CTR stage reads them."""
        from trackrec.ctr.arms.arms import log_odds_of

        if LOG_ODDS not in self.ctr_stages():
            return {}
        scores, learned = self.table(LOG_ODDS, "scores"), self.learned_samples
        arms = scores["source"].unique(maintain_order=True).to_list()
        return {arm: log_odds_of(scores.filter(pl.col("source") == arm), learned) for arm in arms}

    @property
    def tuning_limit(self) -> int:
        """Most tuning rows of a history in one turn."""
        return int(self.rec_tune.data.get("samples_per_history", 4))

    def tuning_rows(self, turns: Sequence[int]) -> pl.DataFrame:
        """The rows of some turns of Rec-Tuning; of a warm-up on the teacher's texts those about which it wrote."""
        warmup = self.cohort.warmup
        if 0 in turns and self.loop.warmup_users is not None:
            warmup = warmup.filter(pl.col("history_id").is_in(list(self.texts("teacher"))))
        parts = [tuning_rows(self.cohort.tune if turn else warmup, self.tuning_limit, turn) for turn in turns]
        return pl.concat(parts).unique("sample_id") if parts else self.cohort.tune.clear()

    @property
    def learned_samples(self) -> set[str]:
        """Samples whose labels are in V, which was tuned on them, or in G's texts, which were rewarded for them."""
        tuned = self.tuning_rows(tuning_turns(self.loop))["sample_id"].to_list()
        return {*tuned, *self.cohort.reward["sample_id"].to_list()}

    def text_fields(self) -> dict[str, dict[str, str]]:
        """The texts that the arms of the CTR stage read: field -> history -> text; nothing where none reads one."""
        if "embed" not in self.ctr_stages():
            return {}
        fields = {"reccot": self.texts("texts")}
        for stage in ("teacher", UNTUNED):
            if stage in self.text_sources:
                fields[stage] = self.texts(stage)
        if "prompt" in self.text_sources:
            fields["prompt"] = {history: self.book.history_text(history) for history in fields["reccot"]}
        return fields

    # -- models -----------------------------------------------------------------------------------------------

    def model(self, role: str) -> LanguageModel:
        """The language model of ``generator`` or ``validator``: one and the same unless the config splits them."""
        from trackrec.llm.backbone import LanguageModel
        from trackrec.llm.chat import ChatEncoder
        from trackrec.llm.loading import tokenizer_or_explain

        other_key = "validator_backbone"
        shared = role == "generator" or self.validator_backbone is None
        name = "generator" if shared else role
        if name not in self._models:
            settings = self.backbone if shared else self.validator_backbone
            assert settings is not None
            lm = self._models[name] = LanguageModel(settings, "backbone" if shared else other_key)
            self.say(f"    {lm.describe()}")
            validator_chat = lm.chat
            if shared and self.validator_backbone is not None:
                other = self.validator_backbone
                tokenizer = tokenizer_or_explain(other, other_key)
                validator_chat = ChatEncoder(tokenizer, system=other.system_prompt, key=other_key)
            validator_chat.label_tokens()  # a tokenizer that can't tell Yes from No: now, not hours later
        return self._models[name]

    def drop_models(self) -> None:
        """Give back the memory of every model; whoever needs one loads it again."""
        from trackrec.llm.memory import release

        self._models.clear()
        release()

    def adapter(self, lm: LanguageModel, stage: str | None) -> str | None:
        """Load the adapter that a stage trained, and no other; None is the plain base."""
        if stage is None:
            lm.keep_only(set())
            return None
        manifest = self.pipeline.manifest(stage)
        name = f"{stage.replace('/', '-')}-{manifest.content_hash[:8]}"
        lm.keep_only({name})
        if name not in lm.adapters:
            lm.load_adapter(self.directory(stage) / "adapter", name)
        return name

    def new_adapter(self, lm: LanguageModel, name: str, start: str | None) -> str:
        """An adapter to train: a copy of another stage's, or a fresh one."""
        lm.keep_only(set())
        if start is None:
            lm.add_adapter(name, seed=self.seed)
        else:
            lm.load_adapter(self.directory(start) / "adapter", name)
        return name

    # -- what a stage says before it starts -------------------------------------------------------------------

    def announce(self, work: str, rows: int, prompt_tokens: int, new_tokens: int = 0) -> dict[str, Any]:
        """Print the budget of a stage, with the time it takes at the rate that this run has measured.

        Args:
            work: ``generate``, ``score`` or ``train``.
            rows: how many histories, sets or texts.
            prompt_tokens: tokens to read.
            new_tokens: the most tokens to write.

        Returns:
            Notes that let later stages know the rate.
        """
        tokens = prompt_tokens + new_tokens
        rate = self._rate(work)
        when = f"about {tokens / rate:,.0f} s at {rate:,.0f} tokens/s" if rate else "rate not measured yet"
        wanted = f"{prompt_tokens:,} prompt tokens" + (f" + at most {new_tokens:,} new ones" if new_tokens else "")
        self.say(f"    budget: {rows:,} rows, {wanted}, {when}")
        return {"work": work, "tokens": tokens}

    def _rate(self, work: str) -> float | None:
        """Tokens per second of the latest stage of this kind of work in this run."""
        for stage in reversed(self.pipeline.stages):
            manifest = self.pipeline.done(stage.name)
            if manifest and manifest.notes.get("work") == work and manifest.seconds > 0:
                return float(manifest.notes["tokens"]) / manifest.seconds
        return None


def tuning_turns(loop: LoopSettings) -> list[int]:
    """The turns whose rows the last V has seen, and the one without texts; 0 is the warm-up. Empty: no V was tuned."""
    turns = list(range(1, loop.rounds + 1)) if loop.rec_tune else []
    if loop.validator_start == "base" and loop.alternate:
        turns = turns[-1:]
    began = loop.warmup and (loop.validator_start == "previous" or not loop.rec_tune)
    return [0, *turns] if began else turns


def texts_in(directory: Path) -> dict[str, str]:
    """The one text per history of a directory's reccots table."""
    return dict(read_table(directory, "reccots").select("history_id", "text").iter_rows())


def targets_by_history(rows: pl.DataFrame) -> dict[str, list[Target]]:
    """Rows of the samples table as V's targets, grouped by history, in the order of their ids."""
    grouped: dict[str, list[Target]] = {}
    for history_id, *target in rows.sort("sample_id").select("history_id", "sample_id", "item_id", "label").iter_rows():
        grouped.setdefault(history_id, []).append((target[0], target[1], target[2]))
    return grouped


def single_texts(texts: Mapping[str, str | None]) -> dict[str, list[tuple[int, str | None]]]:
    """One text per history in the form that scoring takes: draw 0."""
    return {history_id: [(0, text)] for history_id, text in texts.items()}
