"""The wheel holds every module, callbacks included, and nothing in the package imports callbacks."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from trackrec.pipeline.source_code import code_of, package_modules

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
    page = {f"trackrec/report/render/{name}" for name in ("page.css", "page.html.jinja", "blocks.html.jinja")}
    page.add("trackrec/server/page.html")
    assert {"trackrec/py.typed", *page} <= names


def test_nothing_in_the_package_imports_callbacks() -> None:
    pattern = re.compile(r"^\s*(from|import)\s+(trackrec\.)?callbacks", re.MULTILINE)
    guilty = [path.name for path in (ROOT / "trackrec").rglob("*.py") if pattern.search(path.read_text())]
    assert guilty == []


def test_callbacks_import_under_the_package_name() -> None:
    import trackrec.callbacks

    assert trackrec.callbacks.__name__ == "trackrec.callbacks"
    assert Path(trackrec.callbacks.__file__ or "").resolve().parent == ROOT / "callbacks"


# Import name -> distribution, where they differ.
DISTRIBUTIONS = {
    "jinja2": "jinja2",
    "lightning_utilities": "lightning-utilities",
    "sentence_transformers": "sentence-transformers",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
# Used by another package on our behalf, and never imported.
UNIMPORTED = {"accelerate", "gguf", "onnx", "onnxscript"}


def declared(groups: dict[str, list[str]], names: list[str]) -> set[str]:
    """Distributions of some lists of requirements; those of trackrec's own extras are other lists."""
    found = {re.split(r"[\[<>=!~ ]", line, maxsplit=1)[0].lower() for name in names for line in groups[name]}
    return found - {"trackrec"}


def test_what_is_imported_is_declared_and_nothing_else() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {**project["optional-dependencies"], "base": project["dependencies"]}
    extras = [name for name in groups if name not in ("base", "dev", "all")]
    imported = set(code_of(package_modules()).packages) - set(sys.stdlib_module_names) - {"trackrec"}
    named = {DISTRIBUTIONS.get(name, name) for name in imported}
    assert named == declared(groups, ["base", *extras]) - UNIMPORTED
    assert "torch>=2.9,<2.15" in groups["base"]


def test_the_version_stands_in_one_place() -> None:
    import trackrec

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" not in project
    assert project["dynamic"] == ["version"]
    first = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert trackrec.__version__ in first


def test_nothing_claims_to_reproduce_or_prove_the_paper() -> None:
    """The package implements the paper and tests whether texts help; no run at the paper's size was made."""
    claim = re.compile(r"\breproduc(e|es|ed|ing|tions?)\b|\bprov(e|es|ed|en|ing)\b|\bproofs?\b", re.IGNORECASE)
    files = [
        ROOT / "README.md",
        ROOT / "pyproject.toml",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "configs").rglob("*.*"),
    ]
    files += [*(ROOT / "trackrec").rglob("*.py"), *(ROOT / "callbacks").glob("*.py")]
    assert {path.name: claim.findall(path.read_text()) for path in files if claim.search(path.read_text())} == {}
