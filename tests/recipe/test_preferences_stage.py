"""What a text costs that claims what its generator was not shown, and the level of log gains."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from tiny import frame, reccot_row

from trackrec.align.preferences import PreferenceSettings
from trackrec.prompts.settings import PromptSettings
from trackrec.recipe.names import WITHOUT_TEXT
from trackrec.recipe.settings import LoopSettings
from trackrec.recipe.stages.preferences import Preferences, ungrounded_shares
from trackrec.storage.parts import read_table, write_part

ITEMS = [("i0", "Silver River", ["Drama"]), ("i1", "Night Garden", ["War"]), ("i2", "Iron Coast", ["Comedy", "Drama"])]
TEXTS = {
    0: "Likes Silver River.",
    1: "Likes Drama, and Comedy, and War.",
    2: "Who knows?",
    3: "Iron Coast and Night Garden.",
}


def experiment(folder: Path, **sets: Any) -> Any:
    """Two users whose history is i0, the newest, and i1, of which the prompts show the newest; four draws each.

    Of h0's rows a is liked and b not: V gives the labels .8 and .5 with draw 0, .4 and .5 with the others and without a
    text. h1's rows c and d have .5 throughout.
    """
    samples = [
        {
            "sample_id": key,
            "user_id": user,
            "item_id": "i2",
            "label": label,
            "timestamp": 0,
            "split": "train",
            "use": "reward",
        }
        | {"history_id": history, "recent_items": [], "recent_ratings": []}
        for key, user, history, label in (
            ("a", "u0", "h0", 1),
            ("b", "u0", "h0", 0),
            ("c", "u1", "h1", 1),
            ("d", "u1", "h1", 0),
        )
    ]
    histories = [
        {"history_id": f"h{u}", "user_id": f"u{u}", "item_ids": ["i1", "i0"], "ratings": [1.0, 5.0]} for u in (0, 1)
    ]
    items = [{"item_id": key, "title": title, "attributes": names, "year": None} for key, title, names in ITEMS]
    drawn = [
        reccot_row(f"h{u}", draw, round=1, text=text, token_ids=[draw, 1])
        for u in (0, 1)
        for draw, text in TEXTS.items()
    ]
    p_true = {("a", 0): 0.8, **{("a", draw): 0.4 for draw in (1, 2, 3)}}

    def scores(draws: Any, source: str) -> pl.DataFrame:
        return frame(
            "scores",
            [
                {"history_id": row["history_id"], "source": source, "round": 1, "draw": max(draw, 0), "validator": "v"}
                | {"sample_id": row["sample_id"], "p_yes": 0.5, "answer_mass": 1.0}
                | {"p_true": p_true.get((row["sample_id"], draw), 0.4 if row["sample_id"] == "a" else 0.5)}
                for row in samples
                for draw in draws
            ],
        )

    tables = {
        ("data", "samples"): frame("samples", samples),
        ("data", "histories"): frame("histories", histories),
        ("data", "items"): frame("items", items),
        ("data", "users"): frame("users", [{"user_id": f"u{u}", "attributes": []} for u in (0, 1)]),
        ("round-1/sample", "reccots"): frame("reccots", drawn),
        ("round-1/score", "scores"): scores(TEXTS, "teacher"),
    }
    write_part(folder / "round-1/score" / WITHOUT_TEXT, "scores", scores([-1], "none"))
    made: dict[str, Any] = {}
    return SimpleNamespace(
        seed=0,
        loop=LoopSettings(targets=4),
        sets=PreferenceSettings(**sets),
        samples=SimpleNamespace(threshold=3.0),
        prompts=PromptSettings(max_history=1),
        directory=lambda stage: folder / stage,
        table=lambda stage, name: tables[stage, name],
        once=lambda name, read: made.setdefault(name, read()),
    )


def test_the_share_of_claims_that_nothing_supports(tmp_path: Path) -> None:
    """The prompt shows Silver River [Drama] alone: of Drama, Comedy and War one is there; of two other titles none."""
    exp = experiment(tmp_path)
    found = ungrounded_shares(exp, exp.table("round-1/sample", "reccots"))
    assert found == {
        (f"h{u}", draw): share for u in (0, 1) for draw, share in ((0, 0.0), (1, 2 / 3), (2, 0.0), (3, 1.0))
    }


def test_the_stage_rewards_log_gains_less_costs(tmp_path: Path) -> None:
    """Gains of h0: half of log 2 with draw 0, else 0; of h1 all 0. Draw 1 costs .2, draw 3 the whole .3."""
    exp = experiment(tmp_path, reward="log_gain", ungrounded=0.3)
    notes = Preferences(1).run(exp, tmp_path / "out")
    rows = {row["history_id"]: row for row in read_table(tmp_path / "out", "preferences").iter_rows(named=True)}
    gain = 0.5 * math.log(2)
    assert (rows["h0"]["chosen"], rows["h0"]["rejected"]) == (0, [2, 1, 3])
    assert rows["h0"]["chosen_reward"] == pytest.approx(gain, abs=1e-6)
    assert rows["h0"]["rejected_rewards"] == pytest.approx([0.0, -0.2, -0.3], abs=1e-6)
    assert (rows["h1"]["chosen"], rows["h1"]["rejected"]) == (0, [2, 1, 3])  # nothing but the costs tells them apart
    metrics = {row["name"]: row for row in read_table(tmp_path / "out", "metrics").iter_rows(named=True)}
    assert metrics["log_gain"]["value"] == pytest.approx(gain / 8, abs=1e-6)
    assert metrics["log_gain"]["n"] == 8
    assert metrics["ungrounded"]["value"] == pytest.approx((2 / 3 + 1) / 4)
    assert notes["log_gain"] == metrics["log_gain"]["value"]


def test_by_default_nothing_of_it_is_measured(tmp_path: Path) -> None:
    notes = Preferences(1).run(experiment(tmp_path), tmp_path / "out")
    rows = read_table(tmp_path / "out", "preferences")
    assert rows["chosen_reward"].to_list() == pytest.approx([0.65])  # (.8 + .5) / 2; h1's draws are all equal
    assert set(read_table(tmp_path / "out", "metrics")["name"]) == {"reward_reliability", "common_log_odds"}
    assert not {"log_gain", "ungrounded"} & set(notes)
