"""The search: trials, resumption, what it may read, and what it writes."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import yaml

import trackrec.commands.tune as room
from trackrec.commands.search_space import TuneSettings, changed, read_space
from trackrec.ctr import BST, DIN, MLPConnector
from trackrec.ctr.arms.assemble import CTRInputs
from trackrec.ctr.arms.text_settings import TextSettings
from trackrec.ctr.features.dense_statistics import FeatureSettings
from trackrec.ctr.settings import CTRSettings
from trackrec.metrics.scores import auc
from trackrec.runtime.packages import MissingPackageError
from trackrec.storage.parts import read_table

try:
    room.check_optuna()
except MissingPackageError as error:
    pytest.skip(str(error), allow_module_level=True)

# https://github.com/Lightning-AI/pytorch-lightning/issues/21326
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")]

CONFIG = {
    "ctr": {
        "net": {"class_path": "trackrec.ctr.DIN", "init_args": {"dropout": 0.2, "hidden": [8], "embed_dim": 4}},
        "model": {"lr": 1e-3},
    }
}
SPACE = {
    "ctr.model.lr": {"low": 1e-3, "high": 0.1, "log": True},
    "ctr.net.init_args.hidden": {"choices": [[4], [8, 4]]},
}


def plan_of(net, changes):
    after = changed(CONFIG, changes)["ctr"]
    return CTRSettings(
        net=partial(net, **after["net"]["init_args"]),
        connector=partial(MLPConnector, out_dim=3, hidden=[4]),
        model=after["model"],
        data={"batch_size": 16},
        trainer=lambda: {"accelerator": "cpu", "max_epochs": 1},
        arms=["none"],
        seeds=[5],
        patience=1,
    )


def search(tables, folder, said=None, net=DIN, inputs=None, space=None, **settings):
    made = (tables.samples, tables.histories, tables.items, tables.interactions)
    vectors = {f"h{u}": np.random.default_rng(u).normal(size=6).astype(np.float32) for u in range(12)}
    inputs = inputs or CTRInputs(*made, 3.0, {"reccot": vectors})
    say = (said if said is not None else []).append
    exp = SimpleNamespace(inputs=inputs, seed=42, say=say)
    tuned = TuneSettings(space=space or SPACE, **settings)
    data = room.validation_data(inputs, TextSettings(), FeatureSettings(), tuned.arm)
    return room.Search(exp, data, tuned, read_space(tuned, CONFIG), partial(plan_of, net), folder, "study")


def trials_of(one):
    return [(trial.user_attrs["values"], trial.value) for trial in one.finished()]


def test_every_trial_is_the_mean_over_seeds_and_the_best_is_chosen(tables, tmp_path):
    said = []
    one = search(tables, tmp_path, said, seeds=[0, 1])
    one.run(3)
    assert len(trials_of(one)) == 3
    predictions = read_table(tmp_path / "study", "predictions")
    assert set(predictions["split"]) == {"valid"}
    assert predictions.height == 4 * 2 * 24  # the configured net and three trials, two seeds, 24 validation rows
    for trial in one.finished():
        own = pl.read_parquet(tmp_path / "study" / "predictions" / f"part-{1 + trial.number:05d}.parquet")
        by_seed = [auc(rows["p"].to_numpy(), one.labels) for _, rows in own.group_by("seed")]
        assert trial.value == pytest.approx(np.mean(by_seed))
        assert 1e-3 <= trial.user_attrs["values"]["ctr.model.lr"] <= 0.1
    found = one.report()
    best = max(one.finished(), key=lambda trial: trial.value)
    configured = auc_of_part(tmp_path, one, 0)
    if found.number is None:
        assert configured >= best.value
    else:
        assert found.number == best.number
        assert found.auc.value == pytest.approx(best.value)
        assert found.gain.value == pytest.approx(best.value - configured)
        assert found.gain.low <= found.gain.value <= found.gain.high
    assert any(line.startswith("Best of 3 trials") for line in said)


def auc_of_part(folder, one, part):
    own = pl.read_parquet(folder / "study" / "predictions" / f"part-{part:05d}.parquet")
    return np.mean([auc(rows["p"].to_numpy(), one.labels) for _, rows in own.group_by("seed")])


def test_a_search_that_was_cut_off_ends_as_an_undisturbed_one(tables, tmp_path, monkeypatch):
    from trackrec.ctr.training import train

    whole = search(tables, tmp_path / "whole")
    whole.run(5)
    original, calls = train.fit_arm, []

    def counted(*args, **more):
        calls.append(1)
        if len(calls) in (2, 4):  # in the first trial, and in the one after the next
            raise KeyboardInterrupt
        return original(*args, **more)

    monkeypatch.setattr(train, "fit_arm", counted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            search(tables, tmp_path / "cut").run(5)
    said = []
    again = search(tables, tmp_path / "cut", said)
    again.run(5)
    assert trials_of(again) == trials_of(whole)
    assert len(calls) == 8  # the configured net, five trials, and two that were cut off
    told = [line.split(":")[0].strip() for line in said]
    numbers = [one.number for one in again.finished()]  # those that the table of the best trials shows
    assert told == [f"trial {numbers[place]} ({1 + place} of 5)" for place in (1, 2, 3, 4)]
    again.run(5)
    assert len(calls) == 8


def test_test_rows_are_never_read(tables, tmp_path):
    """Other labels of test rows, other trials: none."""
    is_test = pl.col("split") == "test"
    turned = tables.samples.with_columns(label=pl.when(is_test).then(1 - pl.col("label")).otherwise("label"))
    first = search(tables, tmp_path / "first")
    made = first.exp.inputs
    second = search(tables, tmp_path / "second", inputs=made._replace(samples=turned))
    assert set(first.data.splits) == {"train", "valid"}
    for one in (first, second):
        one.run(2)
    assert trials_of(first) == trials_of(second)


def test_a_net_that_learns_nothing_is_not_chosen(tables, tmp_path):
    space = {"ctr.model.lr": {"choices": [1e-9, 0.05]}}
    one = search(tables, tmp_path, space=space, seeds=[0, 1, 2])
    one.run(4)
    tried = {trial.user_attrs["values"]["ctr.model.lr"] for trial in one.finished()}
    assert tried == {1e-9, 0.05}
    by_lr = {lr: np.mean([auc for values, auc in trials_of(one) if values["ctr.model.lr"] == lr]) for lr in tried}
    assert one.report().values.get("ctr.model.lr") in (max(by_lr, key=by_lr.get), None)


def test_a_size_that_does_not_fit_is_told_and_counted(tables, tmp_path):
    said = []
    space = {"ctr.net.init_args.embed_dim": {"choices": [3, 4]}}
    one = search(tables, tmp_path, said, net=BST, space=space)
    one.run(5)
    broken = [trial for trial in one.finished() if trial.value is None]
    assert 0 < len(broken) < 5
    assert any("no net: ctr.net: embed_dim must be a multiple of n_heads (2), got 3" in line for line in said)
    assert one.report().values in ({}, {"ctr.net.init_args.embed_dim": 4})
    none = search(tables, tmp_path / "none", net=BST, space={"ctr.net.init_args.embed_dim": {"choices": [3, 5]}})
    none.run(2)
    with pytest.raises(ValueError, match=r"none of 2 trials gave a net, the last one because: ctr\.net: embed"):
        none.report()


def test_the_overlay_says_how_it_was_found(tables, tmp_path):
    one = search(tables, tmp_path, seeds=[0, 1])
    one.run(3)
    interval = one._draws(1).interval()
    values = {"ctr.model.lr": 0.05, "ctr.net.init_args.hidden": [4]}
    text = room.overlay(CONFIG, room.Found(7, values, interval, interval), one)
    assert yaml.safe_load(text) == {
        "ctr": {
            "model": {"lr": 0.05},
            "net": {"class_path": "trackrec.ctr.DIN", "init_args": {"dropout": 0.2, "hidden": [4], "embed_dim": 4}},
        }
    }
    assert "# Found by `trackrec tune`: trial 7, of 3 trials (Optuna TPE, seed 42)." in text
    assert "# Metric: validation AUC of DIN, arm none, mean of seeds 0, 1." in text
    assert f"AUC {interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}] on 24 rows" in text
    assert "ctr.model.lr 0.001 to 0.1 (log)" in text
    text = room.overlay(CONFIG, room.Found(None, {}, interval, interval), one)
    assert "the configured net, which no trial beat" in text
    assert yaml.safe_load(text)["ctr"]["model"] == {"lr": 1e-3}


def test_an_arm_without_texts_is_an_error(tables, tmp_path):
    with pytest.raises(ValueError, match=r"there are no vectors of teacher"):
        search(tables, tmp_path, arm="teacher")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"trackrec tune needs optuna: pip install 'trackrec\[tune\]'"):
        room.check_optuna()
