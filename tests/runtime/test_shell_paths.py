"""Paths are read as a shell reads them, and what isn't set is named with its key."""

from __future__ import annotations

import pytest

from trackrec.runtime.errors import SettingError
from trackrec.runtime.shell_paths import expand_path


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("runs/x", "runs/x"),
        ("~/x", "/home/me/x"),
        ("$DISK/x", "/mnt/disk/x"),
        ("${DISK}2/x", "/mnt/disk2/x"),
        ("${NOPE:-runs}/x", "runs/x"),
        ("${EMPTY:-runs}/x", "runs/x"),
        ("${EMPTY}runs/x", "runs/x"),
        ("$TILDE/x", "/home/me/x"),
        ("a~b/x", "a~b/x"),
        ("price$/5$", "price$/5$"),
    ],
)
def test_a_path_is_read_as_a_shell_reads_it(monkeypatch: pytest.MonkeyPatch, typed: str, meant: str) -> None:
    for name, value in {"HOME": "/home/me", "DISK": "/mnt/disk", "EMPTY": "", "TILDE": "~"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NOPE", raising=False)
    assert expand_path(typed, "run_dir") == meant


@pytest.mark.parametrize("typed", ["$NOPE/x", "${NOPE}/x", "a/${NOPE}"])
def test_a_variable_that_is_not_set_is_an_error_with_the_key(monkeypatch: pytest.MonkeyPatch, typed: str) -> None:
    monkeypatch.delenv("NOPE", raising=False)
    with pytest.raises(SettingError) as found:
        expand_path(typed, "run_dir")
    assert str(found.value) == (
        f"run_dir is {typed!r}, but the environment variable NOPE isn't set. Export it, or write the path out."
    )


@pytest.mark.parametrize("typed", ["$(date)/x", "${DISK:?no}/x", "${DISK/a/b}", "${", "$PRICE/x"])
def test_what_is_not_read_makes_no_folder_of_that_name(monkeypatch: pytest.MonkeyPatch, typed: str) -> None:
    """The value of PRICE would be expanded once more when the saved configuration is read."""
    monkeypatch.setenv("DISK", "/mnt/disk")
    monkeypatch.setenv("PRICE", "/mnt/a$b")
    with pytest.raises(SettingError, match=r"^--output is .* Write the path out, without a \$\."):
        expand_path(typed, "--output")


def test_the_home_of_an_unknown_user_is_an_error() -> None:
    with pytest.raises(SettingError, match=r"^embed\.model is '~nobody-here/x', but no home folder of '~nobody-here'"):
        expand_path("~nobody-here/x", "embed.model")
