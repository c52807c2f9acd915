"""Does the validator (V) read the text that the generator (G) wrote?"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from trackrec.metrics.names import TEXT_USE
from trackrec.runs.hooks import DoneStage

from .monitor import Gauge, Limits, Monitor


class ValidatorReads(Monitor):
    """V ranks as well with another user's text as with the text about the user: its rewards say nothing of a text.

    Args:
        text_use: lower end of the 95 % interval over users of V's AUC with the own text less that with another user's;
            see `trackrec.validator.evaluate.text_use`. It is exactly 0 where the text changes no order of rows, so the
            limit stands a little above 0.
        least: with fewer rows the limits don't apply.
    """

    low = ("text_use",)

    def __init__(self, text_use: Limits = Limits(1e-4, None), least: int = 100) -> None:
        super().__init__(least, {"text_use": text_use})

    def measure(self, stage: DoneStage) -> Iterator[Gauge]:
        """After evaluate stages of a V that reads texts."""
        if stage.kind != "evaluate":
            return
        rows = stage.metrics.filter((pl.col("stage") == stage.name) & (pl.col("name") == TEXT_USE))
        advice = (
            "V hardly reads the texts, or they are alike (Collapse). Tune it on more users (loop.warmup_users: 1.0), "
            "on fewer rows of each (rec_tune.data.samples_per_history), with rec_tune.data.contrast, wrong_texts or "
            "hide_history; let G write longer texts (prompts.max_words), put the target next to the answer "
            "(prompts.order: prefill), or set loop.min_reading to leave G as it is."
        )
        for low, n in rows.select("ci_low", "n").iter_rows():
            yield Gauge("text_use", "the lower end of AUC with the own less another user's text", low, n, advice)
