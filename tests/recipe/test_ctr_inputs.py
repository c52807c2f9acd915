"""What the CTR stage reads of a run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import polars as pl

from trackrec.ctr.arms.text_settings import TextSettings
from trackrec.ctr.features.dense_statistics import FeatureSettings
from trackrec.recipe.ctr_inputs import ctr_inputs


def test_every_reader_of_the_ctr_stage_gets_the_short_recent_lists() -> None:
    """Nets, classic models, means, ``predict`` and ``export`` all read the inputs: the lists are cut there."""
    samples = pl.DataFrame({"recent_items": [["a", "b", "c"], []], "recent_ratings": [[1.0, 2.0, None], []]})
    tables = {"samples": samples, "histories": samples, "items": samples, "interactions": samples}
    exp: Any = SimpleNamespace(
        ctr=SimpleNamespace(arms=["none"], features=FeatureSettings(recent_len=2), text=TextSettings()),
        table=lambda stage, name: tables[name],
        once=lambda name, read: read(),
        pipeline=SimpleNamespace(manifest=lambda stage: SimpleNamespace(notes={"threshold": 3.0})),
    )
    inputs = ctr_inputs(exp)
    assert inputs.samples.rows() == [(["b", "c"], [2.0, None]), ([], [])]
    assert inputs.histories is samples
