"""What the CTR stage reads of a run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import polars as pl

from trackrec.ctr.arms.text_settings import TextSettings
from trackrec.ctr.features.dense_statistics import FeatureSettings
from trackrec.prompts.book import PromptBook
from trackrec.prompts.settings import PromptSettings
from trackrec.recipe.arm_texts import facts_texts
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


def test_the_arm_facts_reads_what_counting_says_in_as_many_words_as_a_reccot_has() -> None:
    """RecCoTs of 14 and 12 words, 13 on average: "Liked 2 of 4 films." has 5, the first kind of each side 4 more."""
    histories = pl.DataFrame(
        {
            "history_id": ["h1", "h2", "h3"],
            "user_id": ["u1", "u2", "u3"],
            "item_ids": [["a", "b", "c", "d"], ["a", "c"], []],
            "ratings": [[5.0, 5.0, 1.0, 1.0], [None, None], []],
        },
        schema_overrides={"item_ids": pl.List(pl.String), "ratings": pl.List(pl.Float32)},
    )
    items = pl.DataFrame(
        {
            "item_id": ["a", "b", "c", "d"],
            "title": ["A", "B", "C", "D"],
            "attributes": [["War"], ["War", "Drama"], ["Horror"], ["Horror", "Noir"]],
            "year": [1990, 1991, 1992, None],
        }
    )
    users = pl.DataFrame({"user_id": ["u1", "u2", "u3"], "attributes": [[], [], []]})
    book = PromptBook(histories, items, users, 3.0, PromptSettings())
    texts = {"h1": "word " * 14, "h2": "word " * 12, "h3": "No history yet."}
    assert facts_texts(book, texts) == {
        "h1": "Liked 2 of 4 films. Mostly liked: War (2). Mostly disliked: Horror (2).",
        "h2": "Mostly liked: Horror, War.",
        "h3": "No history yet.",
    }
    texts["h1"] = "word " * 22  # 17 on average; each further kind has 2
    assert facts_texts(book, texts)["h1"] == (
        "Liked 2 of 4 films. Mostly liked: War (2), Drama (1). Mostly disliked: Horror (2), Noir (1)."
    )
