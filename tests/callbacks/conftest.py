"""A made-up healthy run, and copies of it in which a test plants a failure."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from made_run import MadeRun, made_config


@pytest.fixture(scope="session")
def healthy_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("healthy") / "run"
    MadeRun(root, made_config()).all()
    return root


@pytest.fixture
def planted(healthy_dir: Path, tmp_path: Path) -> Callable[[], MadeRun]:
    """``planted()``: the healthy run copied, to be spoilt."""

    def copy() -> MadeRun:
        return MadeRun(Path(shutil.copytree(healthy_dir, tmp_path / "run")), made_config())

    return copy
