"""What a person gets who mistypes: at most five lines, the key, near misses; and what the command costs to start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from trackrec.cli.app import TrackRecCLI, parse_values, run_cli
from trackrec.llm.training.optimizer import OptimizerSettings
from trackrec.recipe.settings import LoopSettings

CONFIG = str(Path(__file__).parents[2] / "configs" / "quickstart.yaml")


def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: str) -> list[str]:
    monkeypatch.setattr(sys, "argv", ["trackrec"])
    with pytest.raises(SystemExit) as stop:
        run_cli(list(args))
    assert stop.value.code in (1, 2)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) <= 5
    return lines


@pytest.mark.parametrize(
    ("flag", "value", "meant"),
    [
        ("--align.model.betta", "0.2", "align.model.beta"),
        ("--ctr.net", "DINN", "DIN"),
        ("--dataset.init_args.rot", "x", "root"),
        ("--loop.round", "2", "loop.rounds"),
        ("--align.trainer.max_epoch", "2", "align.trainer.max_epochs"),
        ("--sampler", "HFSampller", "HFSampler"),
    ],
)
def test_fault_13_a_misspelt_flag_is_an_error(
    flag: str, value: str, meant: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = fails(monkeypatch, capsys, "fit", "--config", CONFIG, flag, value)
    assert "did you mean" in lines[-1]
    assert meant in lines[-1]


def test_a_misspelt_key_in_the_file_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(Path(CONFIG).read_text() + "\nscorring: {batch_tokens: 3}\n")
    lines = fails(monkeypatch, capsys, "fit", "--config", str(path))
    assert any("scorring" in line for line in lines)
    assert "scoring" in lines[-1]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--loop.rounds", "0"], "loop.rounds must be at least 1, got 0"),
        (["--loop.users", "2"], "loop.users must be in (0, 1]"),
        (["--sampler.init_args.top_p", "0"], "sampler.init_args.top_p must be in (0, 1]"),
        (["--loop.rounds", "many"], "loop.rounds"),
        (["--backbone.model", "data/nothing"], "backbone.model: no model (config.json) in 'data/nothing'"),
    ],
)
def test_a_bad_value_names_its_key(
    args: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in "\n".join(fails(monkeypatch, capsys, "fit", "--config", CONFIG, *args))


def test_a_missing_config_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere.yaml" in "\n".join(fails(monkeypatch, capsys, "fit", "--config", "nowhere.yaml"))


@pytest.mark.parametrize("form", ["--config {}", "-c {}", "--config={}"])
def test_a_config_that_is_no_yaml_is_named_with_the_place(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text("seed_everything: [1\nrun_dir: {")
    lines = fails(monkeypatch, capsys, "fit", "--config", CONFIG, *form.format(file).split(" "))
    assert lines[1].startswith(f"{file} line 2, column 8 is no YAML: ")
    file.write_bytes(b"run_dir: \xff")
    lines = fails(monkeypatch, capsys, "fit", *form.format(file).split(" "))
    assert lines[1].startswith(f"{file} is no YAML: 'utf-8' codec can't decode")


def test_a_sweep_refuses_a_run_dir(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = ("--run_dir", str(tmp_path / "mine"), "--output", str(tmp_path / "out"))
    lines = fails(monkeypatch, capsys, "sweep", "--config", CONFIG, *given)
    assert lines[1] == "--run_dir: a sweep writes each run under --output. Leave --run_dir out."
    assert not list(tmp_path.iterdir())


def test_an_unknown_command_names_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "fit" in "\n".join(fails(monkeypatch, capsys, "fitt"))


def test_a_replaced_class_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from trackrec.cli.app import swapped_classes

    class Parsed(TrackRecCLI):
        def _run_subcommand(self, subcommand: str) -> None:
            import yaml

            config, parser = self.config[subcommand], self._subcommand_parsers[subcommand]
            self.lines = swapped_classes(config, yaml.safe_load(parser.dump(config, skip_unset=False, format="yaml")))

    monkeypatch.setattr(sys, "argv", ["trackrec"])
    movielens = CONFIG.replace("quickstart", "movielens")
    assert Parsed(["fit", "--config", movielens, "--ctr.net", "DeepFM"]).lines == [
        "ctr.net: DeepFM instead of the file's DIN, keeping embed_dim"
    ]
    assert Parsed(["fit", "--config", movielens]).lines == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ctr.arms", "[none, recot]"], "ctr.arms must be among none, reccot"),
        (["--ctr.seeds", "[0, -1]"], "ctr.seeds must be from 0 to 2147483647, got -1"),
        (["--ctr.classics", "[forest]"], "ctr.classics must be among logistic, lightgbm, got 'forest'"),
        (["--ctr.text.use", "log_odds", "--ctr.arms", "[none]"], "ctr.text.use: log_odds needs an arm that reads V's"),
        (["--ctr.text.score_rows", "0"], "ctr.text.score_rows must be at least 1 or null, got 0"),
        (["--ctr.text.coverage", "[0.5]"], "ctr.text.coverage needs ctr.text.missing: keep"),
    ],
)
def test_a_ctr_stage_that_cannot_run_is_said_before_the_loop(
    flags: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["trackrec"])
    monkeypatch.setattr("trackrec.llm.loading.BackboneSettings.check_path", lambda *_: None)
    with pytest.raises(SystemExit):
        run_cli(["fit", "--config", CONFIG, "--run_dir", str(tmp_path / "run"), *flags])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("section", "key", "due"),
    [
        ("teacher: {class_path: TableTeacher, init_args: {path: texts.csv}}", "teacher", {"fraction": 1.0}),
        ("ctr: {net: LightFM}", "ctr.net", {"embed_dim": 16, "dropout": 0.0}),
        ("ctr: {net: {class_path: DeepFM, init_args: {embed_dim: 8}}}", "ctr.net", {"embed_dim": 8, "dropout": 0.2}),
    ],
)
def test_a_class_of_the_file_has_its_own_defaults(
    section: str,
    key: str,
    due: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Arguments left over from another class (pytorch-lightning#15796): TableTeacher with ProfileTeacher's fraction."""
    values = yaml.safe_load(Path(CONFIG).read_text())
    name = section.split(":")[0]
    values[name] = {**(values[name] if name == "ctr" else {}), **yaml.safe_load(section)[name]}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    monkeypatch.setattr(sys, "argv", ["trackrec"])
    with pytest.raises(SystemExit):
        run_cli(["fit", "--config", str(path), "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    for part in key.split("."):
        printed = printed[part]
    assert {argument: printed["init_args"][argument] for argument in due} == due


def test_a_configuration_without_a_teacher_has_one_with_its_own_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["trackrec"])
    values = yaml.safe_load(Path(CONFIG).read_text())
    del values["teacher"]
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(values))
    found = parse_values([file])["teacher"]
    assert (found["class_path"].rsplit(".", 1)[-1], found["init_args"]["max_words"]) == ("ProfileTeacher", 60)


@pytest.mark.recipe
def test_the_installed_command_says_what_is_wrong() -> None:
    """The executable itself; `test_secrets` runs the module."""
    program = Path(sys.executable).with_name("trackrec")
    if not program.exists():
        pytest.skip("trackrec is not installed in this environment: pip install -e .")
    ran = subprocess.run([program, "fit", "--config", CONFIG, "--loop.round", "2"], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "loop.rounds" in ran.stderr
    assert "Traceback" not in ran.stderr
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith("trackrec ")


def test_importing_the_package_loads_no_torch() -> None:
    code = (
        "import sys, trackrec; print([m for m in ('torch', 'lightning', 'transformers', 'polars') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.slow
def test_help_loads_neither_transformers_nor_peft() -> None:
    code = (
        "import sys\nfrom trackrec.__main__ import main\n"
        "try:\n    main(['fit', '--help'])\nexcept SystemExit:\n    pass\n"
        "print('LOADED', [m for m in ('transformers', 'peft', 'bitsandbytes', 'datasets') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "LOADED []" in out
    assert "--loop.rounds" in out
    assert "T of the paper" in out  # the attribute's description


def test_the_defaults_of_the_loop_are_the_papers() -> None:
    assert (LoopSettings().rounds, LoopSettings().validator_start) == (3, "base")
    assert OptimizerSettings().name == "adamw"
