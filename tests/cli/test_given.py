"""What is typed is read as it is meant: paths as in a shell, lists without brackets, durations and sizes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from trackrec.cli.app import TrackRecCLI, run_cli

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "quickstart.yaml")
OWN = str(ROOT / "configs" / "own_ratings.yaml")


def parsed(monkeypatch: pytest.MonkeyPatch, command: str, *args: str) -> Any:
    """The configuration of a command line, its values as plain types under ``values``."""

    class Parsed(TrackRecCLI):
        def _run_subcommand(self, subcommand: str) -> None:
            self.values = self._resolved(subcommand)

    monkeypatch.setattr(sys, "argv", ["trackrec"])
    return Parsed([command, *args]).values


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The second line of the error of a command line."""
    monkeypatch.setattr(sys, "argv", ["trackrec"])
    with pytest.raises(SystemExit):
        run_cli(list(args))
    return capsys.readouterr().err.splitlines()[1]


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["--ctr.seeds", "0,1"], "ctr.seeds", [0, 1]),
        (["--ctr.seeds", "[0,1]"], "ctr.seeds", [0, 1]),
        (["--ctr.seeds=3"], "ctr.seeds", [3]),
        (["--loop.comparisons", "facts,titles"], "loop.comparisons", ["facts", "titles"]),
        (["--loop.comparisons", "null"], "loop.comparisons", None),
        (["--loop.comparisons", "[]"], "loop.comparisons", []),
        (["--ctr.arms", "none, reccot/no_stats"], "ctr.arms", ["none", "reccot/no_stats"]),
        (["--ctr.text.coverage", "0.5,1"], "ctr.text.coverage", [0.5, 1.0]),
    ],
)
def test_a_list_needs_no_brackets(monkeypatch: pytest.MonkeyPatch, words: list[str], key: str, value: Any) -> None:
    found = parsed(monkeypatch, "fit", "--config", CONFIG, *words)
    for part in key.split("."):
        found = found[part]
    assert found == value


def test_a_list_of_another_type_names_the_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "ctr.seeds" in refused(monkeypatch, capsys, "fit", "--config", CONFIG, "--ctr.seeds", "0,x")


def test_every_path_of_a_configuration_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DISK", str(tmp_path))
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("CONFIGS", str(ROOT / "configs"))
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(
        "run_dir: ${DISK}/run\n"
        "dataset:\n  init_args:\n    ratings: {train: ~/train.csv, test: $DISK/test.csv}\n"
        "    items: '$DISK/*.csv'\n    columns: {user: $u}\n"
        "prompts: {items: ~films$}\n"
        "backbone: {model: ~/lm}\n"
        "validator_backbone: {model: $DISK/v}\n"
        "embed: {model: $DISK/encoder}\n"
        "teacher: {class_path: LocalTeacher, init_args: {backbone: {model: ~/teacher}}}\n"
        "distill:\n  trainer:\n    logger: {class_path: CSVLogger, init_args: {save_dir: $DISK/logs}}\n"
        "    callbacks: [{class_path: ModelCheckpoint, init_args: {dirpath: ~/best}}]\n"
        "    default_root_dir: $DISK/root\n"
    )
    own = ("--config", "$CONFIGS/own_ratings.yaml", "--config=$DISK/overlay.yaml", "--reuse", "~/runs")
    values = parsed(monkeypatch, "fit", *own)
    assert values["run_dir"] == f"{tmp_path}/run"
    dataset = values["dataset"]["init_args"]
    assert dataset["ratings"] == {"train": "/home/me/train.csv", "test": f"{tmp_path}/test.csv"}
    assert (dataset["items"], dataset["columns"]["user"]) == (f"{tmp_path}/*.csv", "$u")
    assert values["prompts"]["items"] == "~films$"
    models = [values[key]["model"] for key in ("backbone", "validator_backbone", "embed")]
    assert models == ["/home/me/lm", f"{tmp_path}/v", f"{tmp_path}/encoder"]
    assert values["teacher"]["init_args"]["backbone"]["model"] == "/home/me/teacher"
    trainer = values["distill"]["trainer"]
    assert trainer["logger"]["init_args"]["save_dir"] == f"{tmp_path}/logs"
    assert trainer["callbacks"][0]["init_args"]["dirpath"] == "/home/me/best"
    assert trainer["default_root_dir"] == f"{tmp_path}/root"
    assert values["reuse"] == "/home/me/runs"


@pytest.mark.parametrize(
    ("args", "key"),
    [
        (["fit", "--config", CONFIG, "--run_dir", "${NOPE}/x"], "run_dir"),
        (["fit", "--config", CONFIG, "--reuse", "$NOPE/x"], "--reuse"),
        (["fit", "--config", "$NOPE/x.yaml"], "--config"),
        (["fit", "--config", CONFIG, "--dataset.init_args.root", "$NOPE"], "dataset.init_args.root"),
        (["predict", "--config", CONFIG, "--requests", "$NOPE", "--output", "x.parquet"], "--requests"),
        (["export", "--config", CONFIG, "--output", "$NOPE/x"], "--output"),
        (["tune", "--config", CONFIG, "--output", "$NOPE/x"], "--output"),
        (["sweep", "--config", CONFIG, "--output", "$NOPE/x"], "--output"),
        (["sweep", "--config", CONFIG, "--output", "{}/x", "--variants", "$NOPE/a.yaml"], "--variants"),
        (["report", "--config", CONFIG, "--run_dir", "$NOPE/x"], "run_dir"),
    ],
)
def test_what_is_not_set_is_an_error_with_the_key_and_makes_no_folder(
    args: list[str],
    key: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.delenv("NOPE", raising=False)
    monkeypatch.chdir(tmp_path)
    line = refused(monkeypatch, capsys, *(word.format(tmp_path) if word == "{}/x" else word for word in args))
    assert line.startswith(f"{key} is ")
    assert "the environment variable NOPE isn't set" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("typed", "time"), [("10min", "00:00:10:00"), ("36h", "01:12:00:00"), ("00:01:00:05", "00:01:00:05")]
)
def test_the_time_of_a_trainer_takes_units(monkeypatch: pytest.MonkeyPatch, typed: str, time: str) -> None:
    values = parsed(monkeypatch, "fit", "--config", CONFIG, "--ctr.trainer.max_time", typed)
    assert values["ctr"]["trainer"]["max_time"] == time


def test_a_time_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(monkeypatch, capsys, "fit", "--config", CONFIG, "--ctr.trainer.max_time", "soon")
    assert line.startswith("ctr.trainer.max_time must be a duration such as 90s, 10min")


@pytest.mark.parametrize(("typed", "seconds"), [("2min", 120.0), ("90", 90.0)])
def test_a_time_out_takes_units(monkeypatch: pytest.MonkeyPatch, typed: str, seconds: float) -> None:
    teacher = ("--teacher", "OpenAITeacher", "--teacher.init_args.model", "m", "--teacher.init_args.timeout_s", typed)
    assert parsed(monkeypatch, "fit", "--config", CONFIG, *teacher)["teacher"]["init_args"]["timeout_s"] == seconds


@pytest.mark.parametrize(("typed", "gib"), [("800MiB", 0.78125), ("4", 4.0), ("null", None)])
def test_a_size_takes_units(monkeypatch: pytest.MonkeyPatch, typed: str, gib: float | None) -> None:
    sampler = ("--sampler", "VLLMSampler", "--sampler.init_args.kv_cache_gib", typed)
    values = parsed(monkeypatch, "fit", "--config", OWN, *sampler)
    assert values["sampler"]["init_args"]["kv_cache_gib"] == gib


def test_other_sizes_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    sampler = ("--sampler", "VLLMSampler", "--sampler.init_args.kv_cache_gib", "4 apples")
    line = refused(monkeypatch, capsys, "fit", "--config", OWN, *sampler)
    assert line == "kv_cache_gib must be a size such as 4GiB, 800MiB or 16GB, or a number of GiB, got '4 apples'."
