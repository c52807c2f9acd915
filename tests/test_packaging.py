"""The wheel holds every module, callbacks included, and nothing in the package imports callbacks."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_wheel_holds_every_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    expected = {str(path.relative_to(ROOT)) for path in (ROOT / "trackrec").rglob("*.py")}
    expected |= {f"trackrec/callbacks/{path.name}" for path in (ROOT / "callbacks").glob("*.py")}
    assert expected <= names
    assert {"trackrec/py.typed", "trackrec/report/render/page.css"} <= names


def test_nothing_in_the_package_imports_callbacks() -> None:
    pattern = re.compile(r"^\s*(from|import)\s+(trackrec\.)?callbacks", re.MULTILINE)
    guilty = [path.name for path in (ROOT / "trackrec").rglob("*.py") if pattern.search(path.read_text())]
    assert guilty == []


def test_callbacks_import_under_the_package_name() -> None:
    import trackrec.callbacks

    assert trackrec.callbacks.__name__ == "trackrec.callbacks"
    assert Path(trackrec.callbacks.__file__ or "").resolve().parent == ROOT / "callbacks"
