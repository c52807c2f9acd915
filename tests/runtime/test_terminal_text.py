"""Foreign text on a terminal is shown and not obeyed, wherever it comes out."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackrec.cli.app import run_cli
from trackrec.llm.memory import MemoryLimitError
from trackrec.runtime.errors import SettingError
from trackrec.runtime.terminal_text import PrintableFormatter, printable

RED = "\x1b[31m[bold]Film\x1b]0;owned\x07\rgone\u202ecba<|im_end|>"
SHOWN = r"\x1b[31m[bold]Film\x1b]0;owned\x07\rgone\u202ecba<|im_end|>"
CONFIG = str(Path(__file__).parents[2] / "configs" / "quickstart.yaml")


@given(st.text(st.characters(codec="utf-8")))
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = printable(text)
    assert all(char.isprintable() or char in "\n\u3000\xa0" or ord(char) > 127 for char in shown)
    assert not any(0x7F <= ord(char) < 0xA0 for char in shown)
    assert shown.count("\n") == text.count("\n")
    assert printable(shown) == shown
    assert "\n" not in printable(text, keep="")


def test_ordinary_text_stays() -> None:
    text = "Amélie — 七人の侍 (1954) [Drama, War]: 5 ★\n\u3000\xa0 100 %"
    assert printable(text) == text
    assert printable(RED) == SHOWN


def test_a_log_record_is_one_plain_line() -> None:
    record = logging.LogRecord("trackrec", logging.WARNING, "f", 1, "a %s", (f"{RED}\nFAKE: all is well",), None)
    assert PrintableFormatter().format(record) == rf"a {SHOWN}\nFAKE: all is well"


def cli_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: str) -> str:
    monkeypatch.setattr(sys, "argv", ["trackrec"])
    with pytest.raises(SystemExit):
        run_cli(list(args))
    out = capsys.readouterr()
    assert out.out == ""
    return out.err


@pytest.mark.parametrize(
    "args",
    [
        ("--no_such_key", RED),
        ("--loop.rounds", RED),
        ("--teacher", RED),
        ("--backbone.model", f"data/{RED}"),
        ("--dataset.init_args.root", RED),
        ("--run_dir", f"nowhere/\x00{RED}"),
    ],
)
def test_an_error_that_repeats_what_was_typed_is_plain(
    args: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    error = cli_error(monkeypatch, capsys, "fit", "--config", CONFIG, *args)
    assert not any(char in error for char in "\x1b\x07\r\u202e\x00"), error
    assert len(error.strip().splitlines()) <= 5


def test_a_known_error_and_a_full_disk_are_plain(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from trackrec.commands import fit

    for error, words in (
        (SettingError(f"teacher: {RED}\n\n\n\n\nFAKE"), f"teacher: {SHOWN}"),
        (OSError(28, "No space left on device", f"{RED}\nFAKE"), rf"{SHOWN}\nFAKE"),
        (PermissionError(13, "Permission denied", f"{RED}/run"), f"Permission denied: {SHOWN}/run"),
        (MemoryLimitError(RED), SHOWN),
    ):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(fit, "run", fail)
        shown = cli_error(monkeypatch, capsys, "fit", "--config", CONFIG)
        assert words in shown
        assert "\x1b" not in shown
        assert len(shown.strip().splitlines()) <= 5


def test_a_line_of_a_stage_is_plain_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """What a run says goes through `say`: markup is not interpreted, line breaks can't fake a line."""

    class StopError(Exception):
        pass

    def objects() -> None:
        raise StopError

    from trackrec.commands import call, fit

    heard: list[object] = []

    def build(config: object, made: object, say: object) -> None:
        heard.append(say)
        raise StopError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trackrec.recipe.build.build_experiment", build)
        with pytest.raises(StopError):
            fit.run(call.Call({}, {"stages": None}, objects, lambda _: {}))  # type: ignore[arg-type]
    heard[0](f"stage {RED}\n[ 1/25] data up to date")  # type: ignore[operator]
    out = capsys.readouterr().out
    assert out == rf"stage {SHOWN}\n[ 1/25] data up to date" + "\n"
