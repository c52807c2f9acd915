"""No key twice in a YAML, and no word of a prompt or name of a column that YAML takes for something else."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from trackrec.cli.app import parse_values, run_cli
from trackrec.cli.yaml_files import YamlError, check_yaml, load

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


@pytest.mark.parametrize(
    ("text", "path", "lines"),
    [
        ("run_dir: a\nloop: {}\nrun_dir: b\n", "run_dir", "on lines 1 and 3"),
        ("loop:\n  rounds: 1\n  users: .5\n  rounds: 3\n", "loop.rounds", "on lines 2 and 4"),
        ("ctr: {net: DIN, net: DNN}\n", "ctr.net", "twice on line 1"),
        ("monitors:\n- a: 1\n- b: {c: 1,\n    c: 2}\n", "monitors[1].b.c", "on lines 3 and 4"),
        ("loop.rounds: 1\nloop: {rounds: 2}\n", "loop.rounds", "on lines 1 and 2"),
        ("a: &all [*all, {b: 1, b: 2}]\n", "a[1].b", "twice on line 1"),
    ],
)
def test_a_key_given_twice_is_an_error_with_both_lines(text: str, path: str, lines: str) -> None:
    with pytest.raises(YamlError) as found:
        check_yaml(text, "mine.yaml")
    assert str(found.value) == (
        f"mine.yaml: {path} is given {lines}, and only one of the two can hold. Take the other one out."
    )


@pytest.mark.parametrize(
    "text",
    [
        "a: {x: 1}\nb: {x: 2}\n",
        "loop.rounds: 1\nloop: {users: 0.5}\n",
        "base: &base {x: 1}\nmine: {<<: *base, x: 2}\nother: *base\n",
        "- {x: 1}\n- {x: 2}\n",
    ],
)
def test_the_same_name_elsewhere_is_none(text: str) -> None:
    check_yaml(text)


def test_numbers_are_texts_where_a_text_is_wanted_as_they_are_written() -> None:
    values = load(
        "prompts: {liked: 1, max_words: 40}\n"
        "dataset:\n  class_path: Table\n  init_args:\n    columns: {user: 01, item: 2}\n"
        "    item_columns.attributes: [3, 1_0]\n    threshold: 4\n    text: {header: no}\n"
    )
    assert values == {
        "prompts": {"liked": "1", "max_words": 40},
        "dataset": {
            "class_path": "Table",
            "init_args": {
                "columns": {"user": "01", "item": "2"},
                "item_columns.attributes": ["3", "1_0"],
                "threshold": 4,
                "text": {"header": False},
            },
        },
    }
    assert load("dataset.init_args.columns.user: 1\nprompts.like: 12:30\n") == {
        "dataset.init_args.columns.user": "1",
        "prompts.like": "12:30",
    }


@pytest.mark.parametrize(
    ("text", "key", "word"),
    [
        ("prompts:\n  liked: yes\n", "prompts.liked", "yes"),
        ("prompts:\n  {disliked: No}\n", "prompts.disliked", "No"),
        ("dataset.init_args:\n  columns: {label: on}\n", "dataset.init_args.columns.label", "on"),
        (
            "dataset:\n  init_args.user_columns.attributes: [a, true]\n",
            "dataset.init_args.user_columns.attributes",
            "true",
        ),
    ],
)
def test_a_word_that_yaml_takes_for_true_or_false_wants_quotes(text: str, key: str, word: str) -> None:
    with pytest.raises(YamlError) as found:
        check_yaml(text, "mine.yaml")
    assert str(found.value) == (
        f'mine.yaml: {key} on line 2 is a text, but YAML reads {word} as true or false: put quotes round it, "{word}".'
    )
    check_yaml(text.replace(word, f'"{word}"'))


def test_true_and_false_stay_where_they_are_wanted() -> None:
    check_yaml("prompts: {history_counts: yes}\nloop: {align: no}\ndataset: {init_args: {text: {header: false}}}\n")


def test_files_flags_and_files_within_files_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay, loop = tmp_path / "overlay.yaml", tmp_path / "loop.yaml"
    overlay.write_text("loop:\n  rounds: 1\n  rounds: 3\n")
    loop.write_text("rounds: 1\nrounds: 3\n")
    monkeypatch.setattr(sys, "argv", ["trackrec"])
    for words, named in (
        (["--config", str(overlay)], f"{overlay}: loop.rounds"),
        ([f"--config={overlay}"], f"{overlay}: loop.rounds"),
        (["--sampler.init_args", "{n: 3, n: 5}"], "--sampler.init_args: n"),
        (["--loop", str(loop)], "a file or value that the configuration names: rounds"),
    ):
        with pytest.raises(SystemExit):
            run_cli(["fit", "--config", str(CONFIG), *words])
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines[0] == "trackrec: error:"
        assert lines[1].startswith(f"{named} is given ")
        assert len(lines) == 2


def test_a_variant_of_a_sweep_is_looked_at_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    variant = tmp_path / "variant.yaml"
    variant.write_text("loop: {rounds: 1, rounds: 3}\n")
    with pytest.raises(SystemExit):
        parse_values([CONFIG, variant])
    assert f"{variant}: loop.rounds is given twice on line 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--loop.users", "many"], "loop.users must be a number, got many."),
        (["--loop.hold", "[1]"], "loop.hold must be a number, got [1]."),
        (["--monitors", "3"], "monitors must be a list in brackets, got 3."),
    ],
)
def test_other_types_are_said_in_plain_words(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["trackrec"])
    with pytest.raises(SystemExit):
        run_cli(["fit", "--config", str(CONFIG), *words])
    assert said in capsys.readouterr().err


def test_a_text_elsewhere_wants_quotes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said: dict[str, Any] = {
        "5": 'got 5 without quotes. Put quotes round it, as in "5".',
        "yes": 'got true (or yes, on) without quotes. Put quotes round it, as in "True".',
    }
    for value, end in said.items():
        file = tmp_path / "system.yaml"
        file.write_text(f"backbone: {{system_prompt: {value}}}\n")
        monkeypatch.setattr(sys, "argv", ["trackrec"])
        with pytest.raises(SystemExit):
            run_cli(["fit", "--config", str(CONFIG), "--config", str(file)])
        assert capsys.readouterr().err.splitlines()[1] == f"backbone.system_prompt must be a text or null, {end}"
