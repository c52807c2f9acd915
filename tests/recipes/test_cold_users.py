"""The whole loop where some rows have no history: sessions with published lists, of which the first is empty."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import yaml

from trackrec.storage.manifest import read_manifest
from trackrec.storage.parts import read_table

pytestmark = pytest.mark.recipe

USERS, NEW, ITEMS = 24, 12, 40
SESSIONS = [range(4), range(4, 12), range(12, 20)]


def write_sessions(path: Path) -> None:
    """``USERS`` with three sessions, each after what they had rated before, and ``NEW`` users with a first one only.

    Everyone likes one kind of item.
    """
    rng = random.Random(0)
    rows = ["user_id,item_id,rating,at,past,rates,title,kind"]
    for user in range(USERS + NEW):
        items = rng.sample(range(ITEMS), 20)
        ratings = [5 if (item % 4 == user % 4) != (rng.random() < 0.2) else 2 for item in items]
        for session in SESSIONS if user < USERS else SESSIONS[:1]:
            seen = range(session.start)
            past, rates = (" ".join(str(values[place]) for place in seen) for values in (items, ratings))
            rows += [
                f"{user},{items[place]},{ratings[place]},{1000 * place + user},{past},{rates},"
                f"Film {items[place]},Kind {items[place] % 4}"
                for place in session
            ]
    path.write_text("\n".join(rows) + "\n")


@pytest.mark.slow
def test_the_loop_with_cold_users(config: Path, trackrec: Callable[..., str], tmp_path: Path) -> None:
    write_sessions(tmp_path / "log.csv")
    values = yaml.safe_load(config.read_text())
    columns = {"rating": "rating", "timestamp": "at", "history": "past", "history_ratings": "rates"}
    values["dataset"] = {
        "class_path": "Table",
        "init_args": {
            "ratings": str(tmp_path / "log.csv"),
            "columns": columns,
            "item_columns": {"title": "title", "attributes": "kind"},
        },
    }
    values["samples"] = {"protocol": "user", "per": "sample", "min_history": 0, "valid": 0.3, "test": 0.3}
    texts = "".join(f"{user},Likes Kind {user % 4}.\n" for user in range(USERS + NEW))
    (tmp_path / "texts.csv").write_text(f"user_id,text\n{texts}")
    values["teacher"]["init_args"]["path"] = str(tmp_path / "texts.csv")
    values["loop"] |= {"rounds": 1, "users": 1.0, "warmup_users": None, "eval_samples": 60}
    values["ctr"] |= {"arms": ["none", "reccot", "shuffled", "prompt"], "seeds": [0], "classics": ["logistic"]}
    values["run_dir"] = str(tmp_path / "run")
    (tmp_path / "cold.yaml").write_text(yaml.safe_dump(values))
    command, run = ("--config", str(tmp_path / "cold.yaml")), tmp_path / "run"
    trackrec("fit", *command)

    def notes(stage: str) -> dict[str, object]:
        manifest = read_manifest(run / stage)
        assert manifest is not None
        return manifest.notes

    histories, samples = (read_table(run / "data", name) for name in ("histories", "samples"))
    empty = set(histories.filter(pl.col("item_ids").list.len() == 0)["history_id"])
    assert len(empty) == USERS + NEW
    assert notes("data")["without_history"] == 4 * (USERS + NEW)
    is_cold = pl.col("history_id").is_in(list(empty))
    of_split = dict(samples.filter(is_cold)["split"].value_counts().iter_rows())
    assert all(of_split[split] >= 4 for split in ("train", "valid", "test"))
    # the teacher, S-DPO and the draws leave them out, and count them
    for stage in ("teacher", "round-1/sample"):
        assert not empty & set(read_table(run / stage, "reccots")["history_id"])
    cold_players = len(
        set(samples.filter(is_cold, pl.col("split") == "train", pl.col("user_id").cast(int) < USERS)["user_id"])
    )
    assert notes("teacher")["without_history"] == notes("round-1/sample")["left_out_without_history"] == cold_players
    assert not empty & set(read_table(run / "round-1/preferences", "preferences")["history_id"])
    # G's other texts about them are one sentence, filed as G's
    source = read_table(run / "round-1/greedy", "reccots")["source"][0]
    for stage in ("warmup/greedy", "round-1/greedy", "texts"):
        table = read_table(run / stage, "reccots", check_keys=True)
        cold = table.filter(is_cold)
        assert len(cold)
        assert set(cold["text"]) == {"No history yet."}
        assert set(cold["finish_reason"]) == {"stop"}
        assert set(cold["source"]) == set(table["source"])
        assert "No history yet." not in table.filter(~is_cold)["text"]
    texts_written = read_table(run / "texts", "reccots")
    assert set(texts_written["history_id"]) == set(histories["history_id"])
    assert set(texts_written["source"]) == {source}
    # V is tuned and evaluated on them too
    scored = read_table(run / "round-1/evaluate", "scores")
    assert empty & set(scored["history_id"])
    assert scored["p_yes"].is_finite().all()
    described = read_table(run / "round-1/greedy", "reccots").filter(~is_cold)
    of_texts = read_table(run / "round-1/evaluate", "metrics").filter(pl.col("arm") == "texts")
    assert set(of_texts["n"]) == {len(described)}
    predictions = read_table(run / "ctr", "predictions")
    ids = samples.filter(is_cold, pl.col("split") == "valid")["sample_id"]
    assert set(ids) <= set(predictions.filter(pl.col("arm") == "reccot")["sample_id"])
    assert predictions["p"].is_finite().all()
    metrics = read_table(run / "ctr", "metrics")
    of_cold = metrics.filter(pl.col("slice") == "cold_users", pl.col("arm") == "reccot", pl.col("name") == "auc")
    assert of_cold["n"].to_list() == [len(ids)]
    trackrec("test", *command)
    assert "cold_users" in read_table(run / "test", "metrics")["slice"]
    report = (run / "report/report.md").read_text()
    assert "users without a history" in report
    assert "No history yet." not in report  # an example of G's writing it is not

    # requests of a user of the run who has no history, and of one whom the run has never seen
    asked = pl.DataFrame({"user_id": [str(USERS), "0", "nobody"], "item_id": ["1", "1", "2"]})
    asked.write_csv(tmp_path / "asked.csv")
    for arm in ("none", "reccot"):
        trackrec(
            "predict", *command, "--requests", str(tmp_path / "asked.csv"), "--output", str(tmp_path / "p.parquet"),
            "--arm", arm, "--unknown", "cold",
        )  # fmt: skip
        assert pl.read_parquet(tmp_path / "p.parquet")["p"].is_between(0, 1).all()
