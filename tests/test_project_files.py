"""The files about the project agree with what is there."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

import trackrec

ROOT = Path(__file__).parent.parent


def targets(text: str) -> set[str]:
    return set(re.findall(r"\bmake ([a-z][a-z-]*)", text))


def test_every_path_that_contributing_names_exists() -> None:
    words = re.findall(r"`([^`\s]+)`", (ROOT / "CONTRIBUTING.md").read_text())
    paths = [word for word in words if "/" in word or re.search(r"\.(md|toml|py|txt)$", word)]
    assert len(paths) > 15
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_contributing_names_targets_of_the_makefile() -> None:
    made = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = targets((ROOT / "CONTRIBUTING.md").read_text())
    assert {"setup", "check", "test"} <= named <= made


def test_workflows_call_the_targets_that_contributing_names() -> None:
    named = targets((ROOT / "CONTRIBUTING.md").read_text())
    for path in sorted((ROOT / ".github/workflows").glob("*.yml")):
        jobs = yaml.safe_load(path.read_text())["jobs"]
        runs = "\n".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
        assert {"check", "test"} == targets(runs) <= named, path.name


def test_issue_forms_parse() -> None:
    forms = [yaml.safe_load(path.read_text()) for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")]
    assert len(forms) == 2
    assert all({"name", "description", "body"} <= form.keys() for form in forms)


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == trackrec.__version__
    assert citation["identifiers"][0]["value"] == "arXiv:2508.15388"
