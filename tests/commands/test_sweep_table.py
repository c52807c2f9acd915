"""What a sweep is told and what it tells: variants, seeds, differences with intervals."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from made_run import MadeRun, made_config
from rich.console import Console

from trackrec.commands.sweep import chosen_seeds, resolve, run_all, variant_files
from trackrec.commands.sweep_table import OUTCOMES, print_lines, seed_interval, sweep_lines, sweep_report, write_sweep
from trackrec.metrics.intervals import Interval, paired_bootstrap
from trackrec.metrics.scores import auc
from trackrec.report.numbers import RunNumbers
from trackrec.report.render.markdown import to_markdown


@pytest.mark.parametrize("given", [["0,1,2"], ["0", "1", "2"], ["[0,1,2]"], ["[0, 1, 2]"], ["0,", "1,2"]])
def test_seeds_as_people_type_them(given: list[str]) -> None:
    assert chosen_seeds(given) == [0, 1, 2]


@pytest.mark.parametrize("given", [[], ["one"], ["1,1"], ["-1"], ["1.5"]])
def test_other_seeds_are_an_error(given: list[str]) -> None:
    with pytest.raises(ValueError, match=r"--seeds must be different whole numbers such as 0,1,2, got "):
        chosen_seeds(given)


def test_variants_are_files_of_different_names(tmp_path: Path) -> None:
    files = [tmp_path / "a.yaml", tmp_path / "more/a.yaml", tmp_path / "base.yaml"]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text("{}")
    assert variant_files([f"[{files[0]}]"]) == {"a": files[0]}
    with pytest.raises(FileNotFoundError, match=r"--variants: no file '.*b\.yaml'"):
        variant_files([str(tmp_path / "b.yaml")])
    for two in (files[:2], files[2:]):
        with pytest.raises(ValueError, match=r"--variants: two are called '(a|base)'.*Rename a file"):
            variant_files([",".join(map(str, two))])


def test_a_variant_that_does_not_fit_is_named_before_anything_runs(tmp_path: Path) -> None:
    def parse(files: Any) -> tuple[Mapping[str, Any], Any]:
        raise SystemExit(2)

    with pytest.raises(ValueError, match=r"--variants: x\.yaml can't be read over the experiment"):
        resolve({"loop": {}}, {"x": Path("x.yaml")}, parse, tmp_path)


def test_each_variant_is_written_whole(tmp_path: Path) -> None:
    found = resolve({"a": 1, "b": None}, {"x": Path("x.yaml")}, lambda files: ({"a": 2, "b": None}, None), tmp_path)
    assert found == {"base": {"a": 1, "b": None}, "x": {"a": 2, "b": None}}
    assert yaml.safe_load((tmp_path / "x.yaml").read_text()) == found["x"]


@pytest.mark.slow
def test_after_a_failed_run_the_others_go_on(tmp_path: Path) -> None:
    """The real command, on experiments that are none."""
    for name in ("base", "other"):
        (tmp_path / f"{name}.yaml").write_text("{}")
    said: list[str] = []
    assert run_all(["base", "other"], [3], tmp_path, said.append) == ["base-seed3", "other-seed3"]
    assert [line.split(" ", 3)[2] for line in said] == ["base-seed3", "base-seed3", "other-seed3", "other-seed3"]
    assert said[1].startswith("[ 1/2] base-seed3 failed: the following arguments are required: fit.dataset")


def test_the_interval_over_seeds_by_hand() -> None:
    """Student's t with two degrees of freedom: 4.3027 · 1 / √3."""
    found = seed_interval([1.0, 2.0, 3.0, math.nan])
    assert (found.value, found.n) == (2.0, 3)
    assert found.high - found.value == pytest.approx(4.302652729911275 / 3**0.5)
    assert found.value - found.low == pytest.approx(4.302652729911275 / 3**0.5)
    alone = seed_interval([1.0, math.nan])
    assert (alone.value, alone.n) == (1.0, 1)
    assert math.isnan(alone.low)
    assert seed_interval([])[3] == 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, RunNumbers]]:
    """Two variants, two seeds; V knows more in the second variant."""
    root, config = tmp_path_factory.mktemp("runs"), made_config()
    found: dict[str, dict[int, RunNumbers]] = {}
    for variant, skill in (("base", 0.1), ("better", 1.0)):
        for seed in (0, 1):
            made = MadeRun(root / f"{variant}-seed{seed}", config, skill + 0.05 * seed)
            made.all()
            found.setdefault(variant, {})[seed] = RunNumbers(made.run_dir, config)
    return found


def test_differences_are_paired_by_seed(runs: dict[str, dict[int, RunNumbers]]) -> None:
    lines = {(line.outcome, line.variant): line for line in sweep_lines(runs, [0, 1])}
    title = OUTCOMES[0].title
    values = [
        [runs[variant][seed].measured("round-2/evaluate", "valid", "tuned", "auc", 2) for seed in (0, 1)]
        for variant in ("base", "better")
    ]
    gaps = [b.value - a.value for a, b in zip(*values, strict=True) if a and b]
    assert lines[title, "better"].difference == seed_interval(gaps)
    assert lines[title, "better"].value == seed_interval([one.value for one in values[1] if one])
    assert lines[title, "base"].difference[:3] == (0, 0, 0)
    assert {line.outcome for line in lines.values()} == {outcome.title for outcome in OUTCOMES}


def test_one_seed_pairs_the_rows(runs: dict[str, dict[int, RunNumbers]]) -> None:
    """Users are resampled once for both runs, as metrics.paired_bootstrap does it."""
    one = {variant: {0: own[0]} for variant, own in runs.items()}
    line = next(line for line in sweep_lines(one, [0]) if line.variant == "better")
    ours, base = (own[0].answers("round-2/evaluate", "round-2/rec_tune") for own in (runs["better"], runs["base"]))
    assert ours is not None
    assert base is not None
    due = paired_bootstrap(
        auc,
        *(ours[name].to_numpy() for name in ("user_id", "label")),
        *(one["p_yes"].to_numpy().astype(float) for one in (ours, base)),
    )
    assert line.difference[:3] == pytest.approx(due[:3])
    measured = runs["better"][0].measured("round-2/evaluate", "valid", "tuned", "auc", 2)
    assert measured is not None
    assert line.value[:3] == (measured.value, measured.low, measured.high)


def test_runs_on_other_rows_have_a_difference_without_bounds(
    runs: dict[str, dict[int, RunNumbers]], tmp_path: Path
) -> None:
    config = made_config()
    made = MadeRun(tmp_path / "run", config)
    made.samples = made.samples.with_columns(pl.col("sample_id") + "-new")
    made.all()
    two = {"base": {0: runs["base"][0]}, "other": {0: RunNumbers(tmp_path / "run", config)}}
    line = next(line for line in sweep_lines(two, [0]) if line.variant == "other")
    assert not math.isnan(line.difference.value)
    assert math.isnan(line.difference.low)


def test_a_failed_run_leaves_its_seed_out(runs: dict[str, dict[int, RunNumbers]]) -> None:
    lines = sweep_lines({"base": runs["base"], "better": {1: runs["better"][1]}}, [0, 1])
    line = next(line for line in lines if line.variant == "better")
    assert (line.value.n, line.difference.n) == (1, 1)
    assert math.isnan(line.difference.low)
    nothing = sweep_lines({"base": runs["base"], "better": {}}, [0])
    assert next(line for line in nothing if line.variant == "better").value.n == 0


def test_what_is_written(runs: dict[str, dict[int, RunNumbers]], tmp_path: Path) -> None:
    lines = sweep_lines(runs, [0, 1])
    report = sweep_report(lines, "ours", [0, 1], ["better-seed7"])
    write_sweep(tmp_path, lines, runs, report)
    text = (tmp_path / "sweep.md").read_text()
    assert text == to_markdown(report)
    assert "failed and left out: better-seed7" in text
    assert "Student's t over seeds" in text
    table = pl.read_csv(tmp_path / "sweep.csv")
    assert len(table) == len(OUTCOMES) * 2
    assert len(pl.read_csv(tmp_path / "runs.csv")) == len(OUTCOMES) * 4
    first = next(line for line in lines if line.variant == "better")
    row = table.filter(pl.col("variant") == "better").row(0, named=True)
    assert Interval(row["difference"], row["difference_low"], row["difference_high"], 2) == pytest.approx(
        first.difference
    )
    shown = io.StringIO()
    print_lines(lines, Console(file=shown, width=200))
    assert shown.getvalue().count("better") == len(OUTCOMES)
