"""Monitors of the greedy texts of the generator (G): do they become alike, and do they become long?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import polars as pl

from trackrec.metrics.texts import distinct_n, mean_words
from trackrec.recipe.names import TEXTS, in_round
from trackrec.runs.hooks import DoneStage
from trackrec.storage.atomic import stable_hash

from .monitor import Gauge, Limits, Monitor

MOST_TEXTS = 500
"""At most this many texts of a round are checked, chosen by hash."""
_START = in_round(0, "greedy")
_COLUMNS = ("history_id", "text", "finish_reason")
_ADVICE = "Lower align.model.lr or raise align.model.beta; look at the texts in the report."
_ADVICE_AT_START = (
    "The distilled G says less than its teacher: give it more texts (teacher.init_args.fraction), more epochs "
    "(distill.trainer.max_epochs) or a larger backbone.model; look at the texts in the report."
)


class Compared(NamedTuple):
    """Greedy texts and the texts from before the loop, at most as many; in a round both cover the same histories.

    Attributes:
        histories: history ids of ``texts``.
        texts: this round's texts, or the final ones.
        cut: per text, whether the length limit ended it.
        before: texts of the distilled G; where ``texts`` are the distilled G's, texts of the teacher.
        before_histories: history ids of ``before``.
        before_cut: per text of ``before``, whether the length limit ended it.
    """

    histories: list[str]
    texts: list[str]
    cut: list[bool]
    before: list[str]
    before_histories: list[str]
    before_cut: list[bool]


def compared_texts(stage: DoneStage) -> Compared | None:
    """Texts of a greedy stage, or the final ones, with those from before the loop; None after other stages.

    The texts about empty histories are left out: they are all the same, and G didn't write them.
    """
    written = stage.kind == "greedy" or stage.name == TEXTS
    after = stage.run.table(stage.name, "reccots", _COLUMNS) if written else None
    if after is None:
        return None
    before = stage.run.table("teacher" if stage.name == _START else _START, "reccots", _COLUMNS)
    before = after.head(0) if before is None else before
    after, before = (
        texts.filter(~pl.col("history_id").is_in(list(stage.run.empty_histories))) for texts in (after, before)
    )
    if stage.kind == "greedy" and stage.name != _START and len(before):
        after = after.join(before.select("history_id"), on="history_id", how="semi")
        before = before.join(after.select("history_id"), on="history_id", how="semi")
    before = _first(before, min(MOST_TEXTS, len(after)))
    after = _first(after, MOST_TEXTS)
    columns = [frame[name].to_list() for frame in (after, before) for name in ("history_id", "text")]
    cut = [(frame["finish_reason"] == "length").to_list() for frame in (after, before)]
    return Compared(columns[0], columns[1], cut[0], columns[3], columns[2], cut[1])


def _first(texts: pl.DataFrame, most: int) -> pl.DataFrame:
    ranks = [stable_hash("monitor", key) for key in texts["history_id"].to_list()]
    return texts.with_columns(rank=pl.Series(ranks, dtype=pl.String)).sort("rank").head(most).drop("rank")


class Collapse(Monitor):
    """Texts become alike: G writes one text for everybody, or fills in one template.

    Each number is compared with the texts before the loop: the distilled G's on the same histories, or the teacher's
    where the stage is the distilled G's. What the teacher repeats, G may repeat.

    Args:
        identical: share of texts that repeat another user's word by word, minus the same share before the loop.
        distinct: distinct word pairs over all word pairs (distinct-2), divided by the value before the loop.
        spread: one minus the mean cosine of the final texts' vectors, after the embed stage. Off by default, since its
            level depends on the encoder.
        least: with fewer texts the limits don't apply.
    """

    low: ClassVar[tuple[str, ...]] = ("distinct", "spread")

    def __init__(
        self,
        identical: Limits = Limits(0.2, 0.6),
        distinct: Limits = Limits(0.5, 0.25),
        spread: Limits = Limits(),
        least: int = 25,
    ) -> None:
        super().__init__(least, {"identical": identical, "distinct": distinct, "spread": spread})

    def measure(self, stage: DoneStage) -> Iterator[Gauge]:
        """After greedy stages, the final texts, and embed."""
        advice = _ADVICE if stage.name != _START else _ADVICE_AT_START
        if compared := compared_texts(stage):
            excess = _identical(compared.texts) - _identical(compared.before)
            n = len(compared.texts)
            most = min(n, len(compared.before))
            # On equally many texts, since distinct-2 falls with their number.
            ratio = distinct_n(compared.texts[:most]) / distinct_n(compared.before[:most]) if most else float("nan")
            yield Gauge(
                "identical", "the share of identical texts, minus that before the loop", excess, n, advice, share=True
            )
            yield Gauge("distinct", "distinct-2, relative to that before the loop", ratio, most, advice)
        if stage.kind == "embed" and (vectors := stage.run.table(stage.name, "embeddings", ("vector",))) is not None:
            rows = vectors["vector"].head(MOST_TEXTS).to_list()
            yield Gauge("spread", "the spread of the texts' vectors", _spread(rows), len(rows), advice)


def _identical(texts: Sequence[str]) -> float:
    return 1 - len(set(texts)) / len(texts) if texts else 0.0


def _spread(vectors: Sequence[Sequence[float]]) -> float:
    """One minus the mean cosine over all pairs of different rows."""
    matrix = np.asarray(vectors, np.float64)
    n = len(matrix)
    if n < 2:
        return float("nan")
    unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    return 1 - float((np.square(unit.sum(0)).sum() - n) / (n * (n - 1)))


class LengthDrift(Monitor):
    """Texts become long over the rounds: the reward pays for length, or G forgets to end.

    Args:
        words: mean words of a text, divided by the distilled G's on the same histories.
        cut: share of texts that the length limit cut, minus the distilled G's.
        least: with fewer texts the limits don't apply.
    """

    def __init__(self, words: Limits = Limits(1.5, 3.0), cut: Limits = Limits(0.1, 0.5), least: int = 25) -> None:
        super().__init__(least, {"words": words, "cut": cut})

    def measure(self, stage: DoneStage) -> Iterator[Gauge]:
        """After the greedy stages of the rounds."""
        compared = compared_texts(stage) if stage.round else None
        if compared is None or not compared.before:
            return
        n = len(compared.texts)
        words = mean_words(compared.before)
        ratio = mean_words(compared.texts) / words if words else float("nan")
        rise = float(np.mean(compared.cut) - np.mean(compared.before_cut))
        advice = "Set align.model.length_norm: avg or raise align.model.beta."
        yield Gauge("words", "the mean length in words, relative to that before the loop", ratio, n, advice)
        advice = "Raise sampler.init_args.max_new_tokens, or keep G shorter with align.model.sft_coef."
        yield Gauge("cut", "the share of cut texts, minus that before the loop", rise, n, advice, share=True)
