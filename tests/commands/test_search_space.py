"""The section ``tune``: what it may say, and what a mistake is told."""

from __future__ import annotations

from typing import Any

import pytest

from trackrec.commands.search_space import DEFAULT_SPACE, TuneSettings, changed, dimension, read_space

CONFIG = {
    "ctr": {
        "net": {"class_path": "trackrec.ctr.DIN", "init_args": {"dropout": 0.2, "hidden": [200, 80], "embed_dim": 16}},
        "connector": {"class_path": "trackrec.ctr.MLPConnector", "init_args": {"out_dim": 16}},
        "model": {"lr": 1e-3, "weight_decay": 1e-3},
        "data": {"batch_size": 512},
    }
}


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("ctr.model.lr", {"low": 1e-4, "high": 1e-2, "log": True}, "ctr.model.lr 0.0001 to 0.01 (log)"),
        ("ctr.model.lr", {"low": "1e-4", "high": "1e-2"}, "ctr.model.lr 0.0001 to 0.01"),
        ("ctr.net.init_args.dropout", [0.0, 0.5], "ctr.net.init_args.dropout 0 to 0.5"),
        ("ctr.data.batch_size", [64, 512], "ctr.data.batch_size 64 to 512"),
        ("ctr.net.init_args.hidden", {"choices": [[64], [8, 4]]}, "ctr.net.init_args.hidden one of [64], [8, 4]"),
    ],
)
def test_the_forms_of_an_entry(key: str, value: Any, told: str) -> None:
    assert dimension(key, value).describe() == told
    assert dimension(key, value).whole == (key == "ctr.data.batch_size")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ctr.arms", {"choices": ["none"]}, r"tune\.space: 'ctr\.arms' can't be tuned"),
        ("loop.rounds", [1, 3], r"'loop\.rounds' can't be tuned"),
        ("ctr.model.lr", 0.1, r"ctr\.model\.lr must be \[low, high\], \{low, high, log\} or \{choices"),
        ("ctr.model.lr", ["a", "b"], "of finite numbers, got"),
        ("ctr.model.lr", [True, False], "of finite numbers, got"),
        ("ctr.model.lr", [0.0, float("inf")], "of finite numbers, got"),
        ("ctr.model.lr", [0.5, 0.1], r"needs low < high, got \[0\.5, 0\.1\]"),
        ("ctr.model.lr", {"low": 0.0, "high": 0.1, "log": True}, "needs low < high, above 0 for log"),
        ("ctr.model.lr", {"low": 0.0, "high": 0.1, "lgo": True}, "must be"),
        ("ctr.model.lr", {"choices": []}, "has no choices"),
    ],
)
def test_a_wrong_entry_is_named(key: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TuneSettings(space={key: value})


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"tune\.trials must be at least 1, got 0"):
        TuneSettings(trials=0)
    with pytest.raises(ValueError, match=r"tune\.seeds must be at least one seed, each once, got \[1, 1\]"):
        TuneSettings(seeds=[1, 1])


def test_the_shipped_space_is_cut_to_what_the_net_has() -> None:
    assert [one.key for one in read_space(TuneSettings(), CONFIG)] == list(DEFAULT_SPACE)
    without = changed(CONFIG, {"ctr.net.init_args": {"dropout": 0.0}})
    assert "ctr.net.init_args.hidden" not in [one.key for one in read_space(TuneSettings(), without)]


def test_a_key_that_the_configuration_lacks_is_an_error() -> None:
    space = {"ctr.net.init_args.dropuot": [0.0, 0.5]}
    with pytest.raises(ValueError, match=r"has no ctr\.net\.init_args\.dropuot\. Did you mean .*init_args\.dropout"):
        read_space(TuneSettings(space=space), CONFIG)
    space = {"ctr.connector.init_args.out_dim": [4, 16]}
    with pytest.raises(ValueError, match=r"out_dim has no effect on arm none\. Set tune\.arm: reccot"):
        read_space(TuneSettings(space=space), CONFIG)
    assert read_space(TuneSettings(space=space, arm="reccot"), CONFIG)[0].whole
    with pytest.raises(ValueError, match=r"tune\.space is empty"):
        read_space(TuneSettings(space={}), CONFIG)


def test_changes_leave_the_configuration_as_it_was() -> None:
    after = changed(CONFIG, {"ctr.model.lr": 0.5, "ctr.net.init_args.hidden": [4]})
    assert (after["ctr"]["model"]["lr"], after["ctr"]["net"]["init_args"]["hidden"]) == (0.5, [4])
    assert CONFIG["ctr"]["model"]["lr"] == 1e-3
