"""``trackrec store`` on the command line: it builds, shows and verifies, and starts without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.conftest import World

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")]


def trackrec(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "trackrec", *words], capture_output=True, text=True, check=False)


def test_a_store_is_built_shown_and_verified(world: World, tmp_path: Path) -> None:
    output = tmp_path / "store.sqlite"
    words = ["store", "build", "--generation", str(world.bundle.parent / "gens-bundle" / "CURRENT")]
    built = trackrec(*words, "--bundle", str(world.bundle), "--output", str(output), "--events_after", "77")
    assert (built.returncode, built.stderr) == (0, "")
    assert "10 texts and 12 states in" in built.stdout
    said = trackrec("store", "verify", "--store", str(output))
    assert (said.returncode, said.stderr) == (0, "")
    assert "is what was written" in said.stdout
    assert "generation   gen-bundle" in said.stdout
    assert "events_after 77" in said.stdout


def test_mistakes_are_told_in_a_few_lines(world: World, tmp_path: Path) -> None:
    for words, status, why in (
        (("store", "build", "--bundle", str(world.bundle)), 1, "give --output"),
        (("store", "build", "--output", "x"), 1, "--generation, --bundle, or both"),
        (("store", "build", "--generation", str(tmp_path), "--output", "x"), 1, "holds no generation"),
        (("store", "info", "--store", str(tmp_path / "none")), 1, "no such file"),
        (("store", "burn"), 2, "burn"),
        (("serve", "--bundle", str(world.bundle)), 2, "store"),
    ):
        found = trackrec(*words)
        assert found.returncode == status
        assert found.stderr.startswith("trackrec: error:\n")
        assert why in found.stderr
        assert len(found.stderr.splitlines()) <= 3
