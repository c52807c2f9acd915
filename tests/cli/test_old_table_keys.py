"""`Table`'s arguments of before it had groups: an error where a person wrote them, translated where saved."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from trackrec.cli.app import parse_values, run_cli
from trackrec.cli.old_paths import TABLE_KEYS, old_table_keys

OWN = Path(__file__).parents[2] / "configs" / "own_ratings.yaml"


def errors(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: str) -> list[str]:
    monkeypatch.setattr(sys, "argv", ["trackrec"])
    with pytest.raises(SystemExit) as stop:
        run_cli(["fit", *args])
    assert stop.value.code == 2
    return capsys.readouterr().err.strip().splitlines()


def test_a_file_with_old_keys_is_told_the_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay = tmp_path / "mine.yaml"
    overlay.write_text('dataset: {init_args: {user: who, title: name, user_id: id, separator: ";", threshold: 2}}\n')
    assert errors(monkeypatch, capsys, "--config", str(OWN), "--config", str(overlay)) == [
        "trackrec: error:",
        f"{overlay}: dataset.init_args.user is now dataset.init_args.columns.user.",
        "Likewise title is item_columns.title, user_id is user_columns.id, separator is text.separator.",
        "configs/own_ratings.yaml shows the groups.",
    ]


@pytest.mark.parametrize("flag", ["--dataset.init_args.rating", "--dataset.rating"])
@pytest.mark.parametrize("form", ["{} stars", "{}=stars"])
def test_an_old_flag_is_told_the_new_one(
    flag: str, form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = errors(monkeypatch, capsys, f"--config={OWN}", *form.format(flag).split())
    assert lines[1] == "dataset.init_args.rating is now dataset.init_args.columns.rating."


def test_other_datasets_are_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("dataset: {class_path: mydata.Ratings, init_args: {user: who}}\n")
    assert old_table_keys(["fit", "--config", str(mine)]) == []
    assert old_table_keys(["fit", "--config", str(OWN), "--config", str(mine)]) == []
    assert old_table_keys(["fit", "--config", str(mine), "--dataset", "Table"]) != []


def test_a_saved_configuration_is_translated_with_a_notice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `own_ratings.yaml` says, with all of the 29 arguments beside each other as stages saved them."""
    today = parse_values([OWN])
    today["dataset"]["init_args"] |= {"missing_ratings": None, "max_bad": 0.05}  # what has come since, by default
    flat = {key: value for key, value in today["dataset"]["init_args"].items() if not isinstance(value, dict)}
    del flat["missing_ratings"], flat["max_bad"]
    assert len(flat) == 29 - len(TABLE_KEYS)
    for key, path in TABLE_KEYS.items():
        group, _, name = path.partition(".")
        flat[key] = today["dataset"]["init_args"][group][name]
    saved = tmp_path / "config.yaml"
    saved.write_text(
        yaml.safe_dump({**today, "dataset": {"class_path": "trackrec.interactions.Table", "init_args": flat}})
    )
    capsys.readouterr()
    read = parse_values([saved])
    assert read == today
    assert (
        "The saved configuration has Table's arguments as they were before they had groups" in capsys.readouterr().err
    )
    overlay = tmp_path / "more.yaml"
    overlay.write_text("dataset: {init_args: {columns: {user: who}}}\n")
    assert parse_values([saved, overlay])["dataset"]["init_args"]["columns"]["user"] == "who"
