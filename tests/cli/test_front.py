"""The first seconds: what each command imports before it works, and the pages that tell of commands and keys."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trackrec.cli.front import no_command, overview, run_cli
from trackrec.cli.help_pages import PAGE
from trackrec.commands.registry import COMMANDS

CONFIG = str(Path(__file__).parents[2] / "configs" / "quickstart.yaml")
HEAVY = ("torch", "lightning", "transformers", "sklearn", "scipy")
Shown = Callable[..., str]


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shown:
    """Runs the command line until it exits with a status; returns what it printed."""
    monkeypatch.setattr(sys, "argv", ["trackrec"])

    def run(*words: str, status: int = 0) -> str:
        with pytest.raises(SystemExit) as stop:
            run_cli(list(words))
        assert stop.value.code == status
        captured = capsys.readouterr()
        return captured.out if status == 0 else captured.err

    return run


def imported(*words: str) -> set[str]:
    """The packages that a call has imported when it ends."""
    code = (
        "import sys\nfrom trackrec.__main__ import main\n"
        f"try:\n    main({list(words)})\nexcept SystemExit:\n    pass\n"
        "print('IMPORTED', *{name.partition('.')[0] for name in sys.modules})"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return set(out.rpartition("IMPORTED ")[2].split())


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--version"], ["fitt"], []])
def test_a_list_of_words_imports_nothing_of_weight(words: list[str]) -> None:
    assert not imported(*words) & {*HEAVY, "jsonargparse", "polars", "numpy", "rich"}


@pytest.mark.parametrize(
    "name", ["init", "report", "data", "sweep", "predict", "export", "store", "serve", "generations", "forget"]
)
def test_the_help_of_a_command_imports_no_training(name: str) -> None:
    found = imported(name, "--help")
    assert "jsonargparse" in found
    assert not found & set(HEAVY)


def test_init_imports_no_training(tmp_path: Path) -> None:
    log, output = tmp_path / "log.csv", tmp_path / "my.yaml"
    log.write_text("user,item,rating\n" + "".join(f"u{i % 20},i{i % 37},{1 + i % 5}\n" for i in range(400)))
    found = imported("init", "--ratings", str(log), "--output", str(output), "--yes")
    assert output.exists()
    assert not found & set(HEAVY)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["report", "data", "plan"])
def test_a_command_that_loads_no_model_imports_no_transformers(name: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(
        '{"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,'
        ' "num_hidden_layers": 2, "num_key_value_heads": 2, "vocab_size": 100, "tie_word_embeddings": true}'
    )
    simulated = str(Path(CONFIG).parent / "experiments" / "simulated.yaml")
    given = ("--backbone.model", str(tmp_path / "model"), "--run_dir", str(tmp_path / "run"))
    found = imported(name, "--config", simulated, *given, "--dataset.init_args.users", "60")
    assert "lightning" in found
    assert not found & {"transformers", "peft", "datasets", "sklearn"}


def test_every_command_stands_in_the_overview_on_a_line() -> None:
    lines = overview().splitlines()
    for name, command in COMMANDS.items():
        found = [line.split(maxsplit=1) for line in lines if line.split()[:1] == [name]]
        assert found == [[name, command.help]]
    assert max(map(len, lines)) <= 120


def test_every_command_has_its_functions() -> None:
    for command in COMMANDS.values():
        assert {"add_arguments", "run"} <= set(vars(command.load()))


def test_a_missing_and_an_unknown_command_are_told(shown: Shown) -> None:
    assert no_command(["reprot"])[0] == "there is no command 'reprot'. Did you mean report?"
    assert shown(status=2).splitlines()[1] == "a command is missing."
    assert "\x1b" not in shown("\x1b[31m", status=2)


def test_the_help_of_a_command_has_its_own_arguments_and_names_the_page_of_the_keys(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_cli(["predict", "--help"])
    page = capsys.readouterr().out
    assert "--requests" in page
    assert "trackrec fit --help" in " ".join(page.split())
    assert "--loop.users" not in page


def test_the_first_page_of_fit_shows_the_keys_that_matter_in_one_line_each(shown: Shown) -> None:
    lines = shown("fit", "--help").splitlines()
    assert len(lines) < 90
    assert max(map(len, lines)) <= 120
    for heading, keys in PAGE.items():
        assert heading in lines
        for key in keys:
            (line,) = (line for line in lines if line.split()[:1] == [f"--{key}"])
            assert len(line.split()) > 2, line
    assert "3" in next(line for line in lines if "--loop.rounds" in line).split()
    assert "(required)" in next(line for line in lines if "--run_dir" in line)
    assert "DIN" in next(line for line in lines if "--ctr.net " in line)


def test_a_section_is_shown_whole_and_alone(shown: Shown) -> None:
    page = shown("fit", "--help=align")
    keys = [line.split()[0] for line in page.splitlines() if line.startswith("  --")]
    assert {"--align.model.beta", "--align.sets.negatives", "--align.trainer.precision"} <= set(keys)
    assert all(key.startswith("--align.") for key in keys)
    assert "..." not in page
    assert "--dataset.help CLASS" in shown("plan", "--help=dataset")


def test_all_is_every_key_with_its_type(shown: Shown) -> None:
    page = shown("fit", "--help=all")
    assert "--ctr.trainer.accumulate_grad_batches" in page
    assert len(page.splitlines()) > 1000


def test_a_misspelt_section_names_the_sections(shown: Shown) -> None:
    lines = shown("fit", "--help=algn", status=1).splitlines()
    assert lines[1] == "--help=algn: no such section. Did you mean align?"
    assert lines[2].startswith("Sections: dataset, samples, ")
    assert "run_dir" not in lines[2]
