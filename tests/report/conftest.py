"""A made-up finished run, and the document made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_run import MadeRun, made_config

from trackrec.report.render.document import Report
from trackrec.report.report import build_report


@pytest.fixture(scope="session")
def made_dir(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    config = made_config()
    root = tmp_path_factory.mktemp("made") / "a <run>"
    MadeRun(root, config).all()
    return root, config


@pytest.fixture(scope="session")
def made_report(made_dir: tuple[Path, dict[str, Any]]) -> Report:
    return build_report(*made_dir)
