"""Every shipped config parses, and names only what exists; an overlay goes over any config and changes what it says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace

from trackrec.cli.app import parse_objects, parse_values

pytestmark = pytest.mark.slow  # `make check` runs it too
FOLDER = Path(__file__).parent.parent / "configs"
CONFIGS = sorted(path for path in FOLDER.rglob("*.yaml") if "run_dir" in path.read_text())
OVERLAYS = sorted(set(FOLDER.rglob("*.yaml")) - set(CONFIGS))


def parse(path: Path, monkeypatch: pytest.MonkeyPatch) -> Namespace:
    monkeypatch.setattr(sys, "argv", ["trackrec"])
    return parse_objects(["fit", "--config", str(path)])


def test_the_configs_are_found() -> None:
    names = {"quickstart", "ml100k", "movielens", "movielens_12gb", "amazon_books", "simulated", "own_ratings"}
    assert {path.stem for path in CONFIGS} == names
    assert len(OVERLAYS) == 23


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_parses(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = parse(path, monkeypatch)
    given = yaml.safe_load(path.read_text())
    assert objects.loop.rounds == given["loop"]["rounds"]
    assert objects.sampler.n == given["sampler"]["init_args"]["n"]
    assert str(objects.run_dir) == given["run_dir"]


def test_run_dirs_differ() -> None:
    assert len({yaml.safe_load(path.read_text())["run_dir"] for path in CONFIGS}) == len(CONFIGS)


def test_the_papers_settings_stand_in_movielens_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    path = next(path for path in CONFIGS if path.stem == "movielens")
    objects = parse(path, monkeypatch)
    sampler = objects.sampler
    assert (sampler.n, sampler.temperature, sampler.top_p, objects.loop.rounds) == (10, 1.0, 0.9, 3)
    assert (objects.backbone.model, objects.backbone.quantize) == ("Qwen/Qwen2.5-7B-Instruct", "nf4")
    assert objects.embed.model == "bert-base-uncased"


# -- overlays -----------------------------------------------------------------------------------------------------


def leaves(values: Any, key: str = "") -> dict[str, Any]:
    """Every value by its dotted key."""
    if not isinstance(values, dict):
        return {key: values}
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= leaves(value, f"{key}.{name}" if key else name)
    return found


@pytest.fixture(scope="module")
def bases() -> dict[str, dict[str, Any]]:
    before, sys.argv = sys.argv, ["trackrec"]
    try:
        return {name: leaves(parse_values([FOLDER / f"{name}.yaml"])) for name in ("quickstart", "movielens")}
    finally:
        sys.argv = before


def groups() -> list[list[Path]]:
    """The overlays in groups that can go over a config together: parsing takes a second, and there are many."""
    found: list[tuple[set[str], list[Path]]] = []
    for path in OVERLAYS:
        keys = set(leaves(yaml.safe_load(path.read_text())))
        keys |= {"one of both"} if keys & {"loop.align", "loop.rec_tune"} else set()
        for taken, paths in found:
            if not taken & keys:
                taken |= keys
                paths.append(path)
                break
        else:
            found.append((keys, [path]))
    return [paths for _, paths in found]


@pytest.mark.parametrize("base", ["quickstart", "movielens"])
@pytest.mark.parametrize("paths", groups(), ids=lambda paths: "+".join(path.stem for path in paths))
def test_overlays_change_their_keys_and_no_others(
    paths: list[Path], base: str, bases: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The objects are built too: the values fit together."""
    monkeypatch.setattr(sys, "argv", ["trackrec"])
    given = {key: value for path in paths for key, value in leaves(yaml.safe_load(path.read_text())).items()}
    found = leaves(parse_values([FOLDER / f"{base}.yaml", *paths]))
    assert {key: found[key] for key in given} == given
    before = bases[base]
    assert {key for key in found if found[key] != before.get(key)} <= set(given)
    assert set(found) == set(before)


def test_every_overlay_has_its_line_in_the_table() -> None:
    text = (FOLDER / "experiments/README.md").read_text()
    assert [path.name for path in OVERLAYS if f"`{path.name}`" not in text] == []
