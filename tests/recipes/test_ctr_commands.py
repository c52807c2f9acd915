"""What starts from a finished run, through the real command line: tune, export, and V's log-odds for the nets."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from forks import trackrec_fork

from trackrec.cli.app import run_cli
from trackrec.storage.manifest import read_manifest
from trackrec.storage.parts import read_table

pytestmark = pytest.mark.recipe


@pytest.fixture(scope="module")
def finished(config: Path) -> Path:
    """The config of a run with one round."""
    values = yaml.safe_load(config.read_text())
    values["loop"]["rounds"] = 1
    values["distill"]["trainer"]["max_epochs"] = 2
    values["ctr"] |= {"arms": ["none", "reccot"], "classics": []}
    values["align"]["sets"]["min_best"] = 0.0
    config.write_text(yaml.safe_dump(values))
    before, sys.argv = sys.argv, ["trackrec"]
    try:
        run_cli(["fit", "--config", str(config)])
    finally:
        sys.argv = before
    return config


def run_dir(config: Path) -> Path:
    return Path(yaml.safe_load(config.read_text())["run_dir"])


def fails(trackrec: Callable[..., str], capfd: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as stop:
        trackrec(*args)
    assert stop.value.code in (1, 2)
    error = capfd.readouterr().err
    assert len(error.strip().splitlines()) <= 5
    assert "Traceback" not in error
    return error


def test_a_bundle_answers_as_predict_does(
    finished: Path, trackrec: Callable[..., str], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The mean of the seeds, for every user and every item."""
    pytest.importorskip("onnxruntime", reason="pip install 'trackrec[export]'")
    from trackrec.serving.bundle import open_bundle
    from trackrec.serving.ranker import Ranker

    config, output, folder = str(finished), tmp_path / "out.parquet", tmp_path / "bundle"
    said = trackrec("export", "--config", config, "--seed", "all", "--output", str(folder))
    assert f"DIN of arm reccot, seed 0, 1, in {folder}: onnxruntime differs from torch by at most" in said
    bundle = open_bundle(folder)
    ranker, states = Ranker(bundle), {state.user_id: state for state in bundle.users()}
    users = [*states, "nobody"]
    items = [*bundle.item_ids[:40], "nothing"]
    wanted = pl.DataFrame({"user_id": [user for user in users for _ in items], "item_id": items * len(users)})
    wanted.write_parquet(tmp_path / "in.parquet")
    asked = ("--config", config, "--requests", str(tmp_path / "in.parquet"), "--output", str(output))
    trackrec("predict", *asked)
    due = pl.read_parquet(output)
    answers = [ranker.answer(states.get(user) or bundle.stranger(user), items) for user in users]
    np.testing.assert_allclose(np.concatenate([one.p for one in answers]), due["p"].to_numpy(), rtol=0, atol=1e-6)
    assert [name for one in answers for name in one.answered_by] == due["answered_by"].to_list()
    assert {"reccot", "base_rate"} < set(due["answered_by"])
    error = fails(trackrec, capfd, "export", "--config", config, "--arm", "recot", "--output", str(tmp_path / "x"))
    assert "--arm must be among none, reccot, got 'recot'" in error
    assert not (tmp_path / "x").exists()
    assert "exists already" in fails(trackrec, capfd, "export", "--config", config, "--output", str(folder))


@pytest.mark.slow
def test_tuned_values_are_taken_by_fit(
    finished: Path, trackrec: Callable[..., str], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("optuna", reason="pip install 'trackrec[tune]'")
    config, chosen = str(finished), tmp_path / "chosen.yaml"
    space = {
        "ctr.model.lr": {"low": 0.01, "high": 0.1, "log": True},
        "ctr.net.init_args.embed_dim": {"choices": [4, 8]},
    }
    asked = ("tune", "--config", config, "--tune.space", json.dumps(space), "--tune.seeds", "[0,1]")
    first = trackrec(*asked, "--trials", "2", "--output", str(chosen))
    assert "configured: valid AUC" in first
    assert "trial 1 (2 of 2): valid AUC" in first
    more = trackrec(*asked, "--trials", "3", "--output", str(chosen))
    assert "configured: valid AUC" not in more
    assert [line.split(":")[0].strip() for line in more.splitlines() if "of 3): valid" in line] == ["trial 2 (3 of 3)"]
    assert "Found by `trackrec tune`" in chosen.read_text()
    output = trackrec("fit", "--config", config, "--config", str(chosen))
    resolved = yaml.safe_load((run_dir(finished) / "ctr" / "config.yaml").read_text())["ctr"]
    values = yaml.safe_load(chosen.read_text())["ctr"]
    assert resolved["model"]["lr"] == values["model"]["lr"]
    assert resolved["net"] == values["net"]
    assert "instead of the file's" not in output
    assert "read 0 time" not in output
    assert not (run_dir(finished) / "test_reads.jsonl").exists()
    wrong = ("--tune.space", '{"ctr.model.lrr": [0.1, 0.2]}')
    assert "has no ctr.model.lrr. Did you mean ctr.model.lr" in fails(
        trackrec, capfd, "tune", "--config", config, *wrong
    )
    fresh = ("--run_dir", str(tmp_path / "fresh"))
    assert "stage data has not run in" in fails(trackrec, capfd, "tune", "--config", config, *fresh)
    trackrec("fit", "--config", config)


@pytest.mark.slow
def test_a_killed_search_goes_on(finished: Path, trackrec: Callable[..., str]) -> None:
    """SIGKILL in the midst of many trials; the same command again tries only what is missing."""
    pytest.importorskip("optuna", reason="pip install 'trackrec[tune]'")
    space = json.dumps({"ctr.model.weight_decay": [0.0, 0.01]})
    asked = ["tune", "--config", str(finished), "--tune.space", space]
    process = trackrec_fork(*asked, "--trials", "500")
    try:
        before = _complete(run_dir(finished))
        while _complete(run_dir(finished)) < before + 2:
            assert process.poll() is None
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = _complete(run_dir(finished)) - before
    output = trackrec(*asked, "--trials", str(done + 1))
    tried = [line.split(":")[0].strip() for line in output.splitlines() if ": valid AUC" in line]
    assert len(tried) == 1
    assert tried[0].endswith(f" ({done + 1} of {done + 1})")


def _complete(run: Path) -> int:
    """Finished trials of all studies of a run."""
    path = run / "tune" / "study.db"
    if not path.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
            return int(database.execute("SELECT count(*) FROM trials WHERE state = 'COMPLETE'").fetchone()[0])
    except sqlite3.OperationalError:  # not made yet, or being written
        return 0


def test_vs_log_odds_are_a_feature(
    finished: Path, trackrec: Callable[..., str], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The last V scores the rows of the nets, but none whose label it or the text has learned."""
    config, run = str(finished), run_dir(finished)
    arms = ("--ctr.arms", "[none,reccot,plain,shuffled,random]")
    asked = ("fit", "--config", config, "--ctr.text.use", "log_odds", *arms)
    output = trackrec(*asked)
    ran = [line.split("] ")[1].split()[0] for line in output.splitlines() if line.endswith(" starts")]
    assert ran == ["log_odds", "ctr"]
    assert output.count("budget:") == 3  # one line for each arm that V is asked for
    samples, scores = read_table(run / "data", "samples"), read_table(run / "log_odds", "scores", check_keys=True)
    validators = dict(scores.select("source", "validator").unique().iter_rows())
    assert validators == {"reccot": "round-1/rec_tune", "shuffled": "round-1/rec_tune", "plain": "plain/rec_tune"}
    asked_of_v = read_table(run / "round-1/score", "scores")["sample_id"]
    by_arm = {arm: set(rows["sample_id"]) for (arm,), rows in scores.group_by("source")}
    assert by_arm["reccot"] == by_arm["plain"] == by_arm["shuffled"]
    assert not by_arm["reccot"] & set(asked_of_v)
    tuned = read_manifest(run / "round-1/rec_tune").notes["tuning_rows"]  # type: ignore[union-attr]
    notes = read_manifest(run / "log_odds").notes  # type: ignore[union-attr]
    assert notes["learned"] == tuned + asked_of_v.n_unique()
    assert samples.height == notes["rows"] + notes["learned"]
    others = samples.filter(pl.col("split") != "train")["sample_id"]
    assert set(others) <= by_arm["reccot"]
    p = {arm: dict(rows.select("sample_id", "p_yes").iter_rows()) for (arm,), rows in scores.group_by("source")}
    assert sum(p["reccot"][key] != p["plain"][key] for key in p["plain"]) > len(p["plain"]) / 2
    texts_differ = read_table(run / "texts", "reccots")["text"].n_unique() > 1  # a tiny model may write one for all
    assert (p["reccot"] != p["shuffled"]) == texts_differ
    predictions = read_table(run / "ctr", "predictions")
    assert {"none", "reccot", "plain", "shuffled", "random"} <= set(predictions["arm"])
    assert set(predictions.filter(pl.col("arm") == "reccot")["sample_id"]) == set(others)
    metrics = read_table(run / "ctr", "metrics")
    assert "verdict" in set(metrics.filter(pl.col("arm") == "reccot")["name"])
    again = trackrec(*asked)
    assert "log_odds             up to date" in again
    _predict_with_log_odds(config, run, trackrec, tmp_path)


def _predict_with_log_odds(config: str, run: Path, trackrec: Callable[..., str], tmp_path: Path) -> None:
    """A request is answered by a net that reads V: as V answers rows of the stage, once for each user and item."""
    import trackrec.serving.predict as room

    scored = read_table(run / "log_odds", "scores").filter(pl.col("source") == "reccot")
    samples = read_table(run / "data", "samples")
    rows = samples.join(scored.select("sample_id", "p_yes"), on="sample_id").sort("sample_id").head(5)
    rewarded = read_table(run / "round-1/score", "scores")["sample_id"]
    learned = samples.filter(pl.col("sample_id") == rewarded[0])
    wanted = pl.concat([part.select("user_id", "item_id") for part in (rows, rows, learned)])
    wanted.write_parquet(tmp_path / "in.parquet")
    given: dict[str, dict[str, float]] = {}
    original = room.request_log_odds

    def spy(exp: Any, graph: Any, rows: pl.DataFrame, arm: str) -> dict[str, dict[str, float]]:
        found = original(exp, graph, rows, arm)
        given.update({arm: {key: found[min(found)].get(key) for key in rows["sample_id"]}})  # type: ignore[misc]
        return found

    room.request_log_odds = spy
    use = ("--config", config, "--ctr.text.use", "log_odds", "--ctr.arms", "[none,reccot,plain,shuffled,random]")
    answers = {}
    try:
        for arm in ("reccot", "plain", "shuffled", "random", "none"):
            output = tmp_path / f"{arm}.parquet"
            asked = ("--requests", str(tmp_path / "in.parquet"), "--output", str(output), "--arm", arm)
            said = trackrec("predict", *use, *asked)
            assert said.count("budget:") == (arm in ("reccot", "plain", "shuffled"))
            answers[arm] = pl.read_parquet(output)["p"].to_list()
    finally:
        room.request_log_odds = original
    assert set(given) == {"reccot", "plain", "shuffled", "random"}
    assert all(0 < p < 1 for values in answers.values() for p in values)
    odds = list(given["reccot"].values())
    p_yes = rows["p_yes"].to_numpy().astype(np.float64)
    np.testing.assert_allclose(odds[:5], np.log(p_yes / (1 - p_yes)), atol=1e-3)
    assert odds[:5] == odds[5:10]
    assert all(list(values.values())[10] is None for values in given.values())
    assert answers["reccot"][:5] == answers["reccot"][5:10]
    assert set(given["random"].values()) == {0.0, None}


def test_scoring_for_the_nets_goes_on_and_can_be_limited(finished: Path, trackrec: Callable[..., str]) -> None:
    """Cut off after two parts; the second run keeps them, and ends with what an undisturbed run has."""
    import trackrec.validator.score as room

    run = run_dir(finished)
    asked = ("fit", "--config", str(finished), "--ctr.text.use", "log_odds", "--ctr.text.score_rows", "2")
    trackrec(*asked)
    whole = read_manifest(run / "log_odds")
    rows = read_table(run / "log_odds", "scores").filter(pl.col("source") == "reccot")
    per_history = rows.join(read_table(run / "data", "samples").select("sample_id", "split"), on="sample_id")
    assert per_history.group_by("history_id", "split").len()["len"].max() == 2
    shutil.rmtree(run / "log_odds")
    original, calls = room.write_part, []

    def failing(*args: object, **kwargs: object) -> object:
        calls.append(args)
        if len(calls) == 3:
            raise OSError("disk full")
        return original(*args, **kwargs)  # type: ignore[arg-type]

    room.write_part = failing  # type: ignore[assignment]
    try:
        with pytest.raises(OSError, match="disk full"):
            trackrec(*asked)
    finally:
        room.write_part = original
    assert "log_odds             goes on" in trackrec(*asked)
    again = read_manifest(run / "log_odds")
    assert whole is not None
    assert again is not None
    assert again.content_hash == whole.content_hash
    trackrec("fit", "--config", str(finished))


def test_texts_of_the_untuned_base_are_a_comparator(finished: Path, trackrec: Callable[..., str]) -> None:
    """It writes about the histories that have a final text; nothing before the embeddings runs again."""
    said = trackrec("fit", "--config", str(finished), "--ctr.arms", "[none,reccot,untuned]")
    made = re.findall(r"^\[ *\d+/\d+\] (\S+) +starts", said, re.M)
    assert made == ["untuned", "embed", "ctr"]
    where = run_dir(finished)
    own, untuned = (read_table(where / stage, "reccots") for stage in ("texts", "untuned"))
    assert set(untuned["source"]) == {"untuned"}
    assert sorted(untuned["history_id"]) == sorted(own["history_id"])
    assert dict(untuned.select("history_id", "text").iter_rows()) != dict(own.select("history_id", "text").iter_rows())
    assert "untuned" in set(read_table(where / "ctr", "metrics")["arm"])
