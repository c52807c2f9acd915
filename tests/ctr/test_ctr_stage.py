"""The CTR stage as a whole, on a small set of ratings."""

import json
from functools import partial

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from trackrec.ctr import DIN, GatedConnector, MLPConnector
from trackrec.ctr.arms.assemble import CTRInputs, prepare
from trackrec.ctr.arms.classic import check_classics, classic_predictions
from trackrec.ctr.arms.text_settings import TextSettings
from trackrec.ctr.arms.texts import MissingEmbeddingError
from trackrec.ctr.check import check_settings
from trackrec.ctr.features.dense_statistics import FeatureSettings, dense_names
from trackrec.ctr.saved import SavedNets, saved_features, saved_net
from trackrec.ctr.settings import CTRSettings
from trackrec.ctr.stage import run_ctr
from trackrec.metrics.scores import auc
from trackrec.storage.parts import read_table

# https://github.com/Lightning-AI/pytorch-lightning/issues/21326
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")]


@pytest.fixture
def inputs(tables):
    def vectors(seed, n=12):
        rng = np.random.default_rng(seed)
        return {f"h{u}": rng.normal(size=6).astype(np.float32) for u in range(n)}

    given = {"reccot": vectors(1, n=10), "prompt": vectors(2)}
    return CTRInputs(tables.samples, tables.histories, tables.items, tables.interactions, 3.0, given)


def plan(arms, connector=MLPConnector, **more):
    values = {
        "net": partial(DIN, embed_dim=4, hidden=(8,)),
        "connector": partial(connector, out_dim=3, hidden=[4]),
        "model": {"lr": 0.01},
        "data": {"batch_size": 16},
        "trainer": lambda: {"accelerator": "cpu", "max_epochs": 2},
        "arms": arms,
        "seeds": [0, 1],
        "patience": 3,
    }
    return CTRSettings(**{**values, **more})


def run(inputs, made, out):
    said = []
    return run_ctr(inputs, made, out, 0, said.append), said


def test_every_arm_and_seed_is_in_the_tables(inputs, tmp_path):
    arms = ["none", "reccot", "shuffled", "random", "prompt", "teacher"]
    notes, said = run(inputs, plan(arms, classics=["logistic"]), tmp_path)
    assert notes["arms"] == arms[:-1]
    assert "    arm teacher left out: there are no vectors of teacher" in said
    predictions = read_table(tmp_path, "predictions", check_keys=True)
    classics = {"logistic", *(f"logistic+{arm}" for arm in arms[1:-1])}
    assert set(predictions["arm"]) == {*arms[:-1], *classics, "item_mean", "user_mean", "item_user"}
    counts = predictions.group_by("arm", "seed", "split").len()
    assert set(counts["len"]) == {20}
    found = read_table(tmp_path, "metrics", check_keys=True)
    assert set(found.filter(pl.col("name") == "verdict")["arm"]) == {"reccot"}
    assert found.filter(pl.col("slice") != "all").height > 50
    assert not (tmp_path / "logs").exists()


def test_arms_without_statistics_stand_beside_the_others(inputs, tmp_path):
    """Nets and classics of ``/no_stats`` read the item's features only, and are predicted with as they were trained."""
    arms = ["none", "none/no_stats", "reccot", "reccot/no_stats", "shuffled/no_stats"]
    made = plan(arms, classics=["logistic"])
    run(inputs, made, tmp_path)
    predictions = read_table(tmp_path, "predictions", check_keys=True)
    texts = ["", "/no_stats", "+reccot", "+reccot/no_stats", "+shuffled/no_stats"]
    classics = {f"logistic{name}" for name in texts}
    assert set(predictions["arm"]) == {*arms, *classics, "item_mean", "user_mean", "item_user"}
    rows = inputs.samples.filter(
        (pl.col("split") == "test") & pl.col("history_id").is_in(list(inputs.vectors["reccot"]))
    )
    for arm in arms:
        nets = SavedNets(inputs, made, tmp_path, arm, 0)
        found = nets(rows.with_columns(split=pl.lit("request")))
        stored = predictions.filter((pl.col("arm") == arm) & (pl.col("split") == "test"))
        mean = stored.group_by("sample_id").agg(pl.col("p").mean())
        stored = rows.select("sample_id").join(mean, on="sample_id", maintain_order="left")
        np.testing.assert_allclose(found, stored["p"].to_numpy(), atol=1e-6)
    widths = {arm: load_file(saved_net(tmp_path, arm, 0))["mlp.layers.0.weight"].shape[1] for arm in arms}
    assert widths["none"] - widths["none/no_stats"] == len(dense_names()) - len(dense_names("none"))
    found = read_table(tmp_path, "metrics").filter(pl.col("slice") == "all")
    value = {row[:2]: row[2] for row in found.select("arm", "name", "value").rows()}
    for arm, name, other in (
        ("reccot/no_stats", "none", "none/no_stats"),
        ("reccot/no_stats", "best_placebo", "shuffled/no_stats"),
        ("reccot/no_stats", "logistic", "logistic/no_stats"),
        ("logistic+reccot/no_stats", "logistic", "logistic/no_stats"),
        ("reccot", "none", "none"),
    ):
        gap = value[arm, "auc"] - value[other, "auc"]
        assert value[arm, f"auc_minus_{name}"] == pytest.approx(gap, abs=1e-12)
    assert ("reccot/no_stats", "verdict") in value
    assert ("reccot", "verdict") not in value  # no placebo with statistics ran


def test_without_history_statistics_the_user_mean_is_left_out(inputs, tmp_path):
    run(inputs, plan(["none"], classics=["logistic"], features=FeatureSettings("none")), tmp_path)
    assert set(read_table(tmp_path, "predictions")["arm"]) == {"none", "logistic", "item_mean"}


def test_nets_of_an_earlier_version_are_named(inputs, tmp_path):
    made = plan(["none"])
    run(inputs, made, tmp_path)
    path = tmp_path / "nets" / "features.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "scale"}))
    with pytest.raises(
        ValueError, match=r"were trained by trackrec 0\.1\.0, whose features were others. Run `trackrec fit`"
    ):
        SavedNets(inputs, made, tmp_path, "none", 0)


def test_parts_that_stand_are_kept(inputs, tmp_path):
    made = plan(["none", "reccot"])
    run(inputs, made, tmp_path)
    before = read_table(tmp_path, "predictions")
    (tmp_path / "predictions" / "part-00001.parquet").unlink()
    _, said = run(inputs, made, tmp_path)
    assert [line.split(":")[0].strip() for line in said if "valid AUC" in line] == ["none seed 1"]
    assert read_table(tmp_path, "predictions").equals(before)


def test_a_connectors_facts_are_metrics_of_each_seed(inputs, tmp_path):
    run(inputs, plan(["none", "reccot"], connector=GatedConnector), tmp_path)
    rows = read_table(tmp_path, "metrics").filter(pl.col("name") == "gate_mean")
    assert rows.select("arm", "seed", "split", "n").rows() == [("reccot", 0, "valid", 10), ("reccot", 1, "valid", 10)]
    assert all(0 < value < 1 for value in rows["value"])


@pytest.mark.parametrize("use", ["dense", "query"])
def test_rows_without_text_stay_and_coverage_is_measured(inputs, tmp_path, use):
    text = TextSettings(use=use, missing="keep", coverage=[0.5], pca_dim=3)
    notes, _ = run(inputs, plan(["none", "reccot", "random"], text=text), tmp_path)
    assert (notes["left_out"], notes["arms"]) == (0, ["none", "reccot", "random", "reccot@0.5"])
    found = read_table(tmp_path, "metrics")
    values = found.filter((pl.col("arm") == "reccot@0.5") & (pl.col("slice") == "all"))
    assert {"auc", "auc_minus_none"} <= set(values["name"])
    assert not {"auc_minus_best_placebo", "verdict"} & set(values["name"])
    assert (tmp_path / "nets" / "reccot@0.5-1.safetensors").exists()


def test_log_odds_that_know_the_label_are_found(inputs, tmp_path):
    rng = np.random.default_rng(0)
    rows = inputs.samples.select("sample_id", "label").iter_rows()
    odds = {key: 4.0 * label - 2.0 + rng.normal() for key, label in rows}
    given = inputs._replace(log_odds={"reccot": odds})
    text = TextSettings(use="log_odds")
    made = plan(["none", "reccot", "shuffled"], text=text, classics=["logistic"], seeds=[0, 1, 2, 3])
    made = made._replace(connector=None, trainer=lambda: {"accelerator": "cpu", "max_epochs": 12}, patience=12)
    run(given, made, tmp_path)
    found = read_table(tmp_path, "metrics").filter(pl.col("slice") == "all")
    value = {row["arm"]: row["value"] for row in found.filter(pl.col("name") == "auc").to_dicts()}
    assert value["reccot"] > 0.9
    assert value["logistic+reccot"] > 0.9
    assert value["shuffled"] < 0.8
    verdict = found.filter(pl.col("name") == "verdict")
    assert verdict.select("arm", "value").rows() == [("reccot", 1.0)]


@pytest.mark.parametrize("text", [None, TextSettings(use="query", missing="keep", pca_dim=3), TextSettings(pca_dim=3)])
@pytest.mark.parametrize("arm", ["none", "reccot", "shuffled", "random"])
def test_saved_nets_predict_what_the_stage_predicted(inputs, tmp_path, arm, text):
    """Requests that repeat test rows get the mean of the seeds' predictions of those rows."""
    made = plan([arm], text=text or TextSettings())
    run(inputs, made, tmp_path)
    test = inputs.samples.filter(pl.col("split") == "test")
    test = test.filter(pl.col("history_id").is_in(list(inputs.vectors["reccot"])))
    requests = test.with_columns(split=pl.lit("request"), sample_id=pl.concat_str(pl.lit("r"), "sample_id"))
    found = SavedNets(inputs, made, tmp_path, arm, 0)(requests)
    stage = read_table(tmp_path, "predictions").filter((pl.col("arm") == arm) & (pl.col("split") == "test"))
    mean = stage.group_by("sample_id").agg(pl.col("p").mean())
    expected = test.select("sample_id").join(mean, on="sample_id", how="left", maintain_order="left")["p"]
    np.testing.assert_allclose(found, expected.to_numpy(), rtol=1e-5)


def test_the_nets_of_two_seeds_read_different_draws(inputs, tmp_path):
    made = plan(["none", "shuffled"])
    run(inputs, made, tmp_path)
    rows = [saved_features(inputs, made, tmp_path, "shuffled", 0, seed).arms["shuffled"].rows for seed in (0, 1)]
    assert not torch.equal(*rows)


@pytest.mark.parametrize("arm", ["none", "reccot"])
def test_requests_are_answered_part_by_part_as_at_once(inputs, tmp_path, arm):
    made = plan([arm])
    run(inputs, made, tmp_path)
    now = 1 + inputs.interactions["timestamp"].max()
    rows = inputs.samples.filter(pl.col("history_id").is_in(list(inputs.vectors["reccot"])))
    rows = rows.with_columns(split=pl.lit("request"), timestamp=pl.lit(now, pl.Int64))
    whole = SavedNets(inputs, made, tmp_path, arm, 0)(rows)
    nets = SavedNets(inputs, made, tmp_path, arm, 0, now=now)
    parts = [nets(rows[start : start + 7]) for start in range(0, len(rows), 7)]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=1e-6)
    assert np.ptp(whole) > 0.01


def test_a_request_without_a_text_is_no_answer_of_another_users_text(inputs, tmp_path):
    made = plan(["reccot"])
    run(inputs, made, tmp_path)
    other = inputs.samples.filter(~pl.col("history_id").is_in(list(inputs.vectors["reccot"])))
    assert len(other)
    nets = SavedNets(inputs, made, tmp_path, "reccot", 0)
    with pytest.raises(MissingEmbeddingError, match=r"arm 'reccot': \d histories have no text, first \['h"):
        nets(other.with_columns(split=pl.lit("request")))


def test_the_logistic_regression_beats_chance_and_reads_no_test_label(inputs):
    arms = ["none", "reccot"]
    data = prepare(inputs, arms)
    found = classic_predictions(data, ["logistic"], ["none", "reccot"], [0])
    assert found["arm"].unique().sort().to_list() == ["logistic", "logistic+reccot"]
    valid = found.filter((pl.col("arm") == "logistic") & (pl.col("split") == "valid"))
    assert valid["sample_id"].to_list() == data.sample_ids["valid"]
    assert 0.0 <= auc(valid["p"].to_numpy(), data.splits["valid"]["label"].numpy()) <= 1.0
    is_test = pl.col("split") == "test"
    turned = inputs.samples.with_columns(label=pl.when(is_test).then(1 - pl.col("label")).otherwise("label"))
    again = classic_predictions(prepare(inputs._replace(samples=turned), arms), ["logistic"], ["none", "reccot"], [0])
    assert again.equals(found)


def test_a_classic_model_has_a_result_for_each_draw_of_a_placebo(inputs):
    arms = ["none", "reccot", "shuffled", "random"]
    found = classic_predictions(prepare(inputs, ["reccot"]), ["logistic"], arms, [0, 1, 2])
    seeds = {arm: rows["seed"].unique().sort().to_list() for (arm,), rows in found.group_by("arm")}
    assert seeds == {
        **{"logistic": [0], "logistic+reccot": [0]},
        **{"logistic+shuffled": [0, 1, 2], "logistic+random": [0, 1, 2]},
    }
    for arm in ("logistic+shuffled", "logistic+random"):
        p = [found.filter((pl.col("arm") == arm) & (pl.col("seed") == seed))["p"].to_list() for seed in (0, 1, 2)]
        assert p[0] != p[1] != p[2]


def test_a_classic_model_that_is_missing_is_said_before_anything_trains(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'trackrec\[lightgbm\]'"):
        run(inputs, plan(["none"], classics=["lightgbm"]), tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"ctr\.classics must be among logistic, lightgbm, got 'forest'"):
        check_classics(["forest"])


def test_lightgbm_predicts_every_seed(inputs):
    pytest.importorskip("lightgbm", reason="LightGBM is not installed: pip install trackrec[lightgbm]")
    data = prepare(inputs, ["reccot"])
    found = classic_predictions(data, ["lightgbm"], ["none", "reccot"], [0, 1])
    counts = found.group_by("arm", "seed", "split").len()
    assert counts.height == 8
    assert set(counts["len"]) == {20}
    assert found.equals(classic_predictions(data, ["lightgbm"], ["none", "reccot"], [0, 1]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": []}, r"ctr\.seeds must name one or more, each once, got \[\]"),
        ({"seeds": [0, 0]}, r"ctr\.seeds must name one or more, each once, got \[0, 0\]"),
        ({"arms": ["none", "none", "reccot"]}, r"ctr\.arms must name one or more, each once"),
        ({"text": TextSettings(missing="keep", coverage=[0.5, 0.5])}, r"ctr\.text\.coverage must name one or more"),
        (
            {"arms": ["none", "none/no_stats"], "features": FeatureSettings("none")},
            r"no arm ending in /no_stats where ctr\.features\.history_statistics is none, got none, none/no_stats",
        ),
    ],
)
def test_what_is_named_twice_is_refused_before_anything_trains(changes, message):
    with pytest.raises(ValueError, match=message):
        check_settings(plan(["none"])._replace(**changes))
