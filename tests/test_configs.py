"""Every shipped config parses, and names only what exists; an overlay goes over any config and changes what it says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace

from trackrec.cli.app import parse_objects, parse_values
from trackrec.recipe.graph import build_graph

pytestmark = pytest.mark.slow  # `make check` runs it too
FOLDER = Path(__file__).parent.parent / "configs"
CONFIGS = sorted(path for path in FOLDER.rglob("*.yaml") if "\nrun_dir:" in path.read_text())
METHODS = [FOLDER / "experiments" / name for name in ("paper.yaml", "release.yaml")]
OVERLAYS = sorted(set(FOLDER.rglob("*.yaml")) - set(CONFIGS) - set(METHODS))


def parse(path: Path, monkeypatch: pytest.MonkeyPatch) -> Namespace:
    monkeypatch.setattr(sys, "argv", ["trackrec"])
    return parse_objects(["fit", "--config", str(path)])


def test_the_configs_are_found() -> None:
    names = {"quickstart", "ml100k", "movielens", "movielens_12gb", "amazon_books", "simulated", "own_ratings"}
    assert {path.stem for path in CONFIGS} == names
    assert len(OVERLAYS) == 26


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_parses(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = parse(path, monkeypatch)
    given = yaml.safe_load(path.read_text())
    assert objects.loop.rounds == given["loop"]["rounds"]
    assert objects.sampler.n == given["sampler"]["init_args"]["n"]
    assert str(objects.run_dir) == given["run_dir"]


def test_run_dirs_differ() -> None:
    assert len({yaml.safe_load(path.read_text())["run_dir"] for path in CONFIGS}) == len(CONFIGS)


def test_the_papers_model_and_draws_stand_in_movielens_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
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


def short(key: str, value: Any) -> Any:
    """A class by its name, as files give it."""
    return value.rsplit(".", 1)[-1] if key.endswith("class_path") else value


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
    assert {key: short(key, found[key]) for key in given} == given
    before = bases[base]
    assert {key for key in found if found[key] != before.get(key)} <= set(given)
    assert set(found) == set(before)


def test_every_overlay_has_its_line_in_the_table() -> None:
    text = (FOLDER / "experiments/README.md").read_text()
    assert [path.name for path in [*OVERLAYS, *METHODS] if f"`{path.name}`" not in text] == []


# -- the paper's and the release's method --------------------------------------------------------------------------

# The sections that define the method, and their keys that don't.
METHOD = (
    *("prompts", "loop", "align.sets", "align.model", "distill.model", "rec_tune.model", "embed"),
    *("ctr.features", "ctr.text", "ctr.net", "ctr.connector", "teacher.class_path"),
    *("sampler.init_args.n", "sampler.init_args.temperature", "sampler.init_args.top_p"),
)
WORDS = {f"prompts.{name}" for name in ("item", "items", "user", "rated", "like", "liked", "disliked")}
SIZES = {"loop.users", "loop.eval_samples", "loop.test_samples", "loop.eval_per_history", "loop.shard_histories"}
SIZES |= {"embed.batch_size"} | {f"{stage}.model.optimizer.name" for stage in ("distill", "align", "rec_tune")}


def of_method(key: str) -> bool:
    return key not in WORDS | SIZES and any(key == part or key.startswith(f"{part}.") for part in METHOD)


@pytest.fixture(scope="module")
def configs() -> dict[str, dict[str, Any]]:
    """Every value of every config, by its name."""
    before, sys.argv = sys.argv, ["trackrec"]
    try:
        return {path.stem: leaves(parse_values([path])) for path in CONFIGS}
    finally:
        sys.argv = before


@pytest.mark.parametrize("method", METHODS, ids=lambda path: path.stem)
def test_a_method_sets_every_key_of_the_method_over_every_config(
    method: Path, configs: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stands in the file, so that a config of one's own can't keep one; all others stay the config's."""
    monkeypatch.setattr(sys, "argv", ["trackrec"])
    given = leaves(yaml.safe_load(method.read_text()))
    for path in CONFIGS:
        found = {key: short(key, value) for key, value in leaves(parse_values([path, method])).items()}
        assert {key for key in found if of_method(key)} <= set(given), path.stem
        assert {key: found[key] for key in given} == given, path.stem
        before = configs[path.stem]
        kept = {key for key in found if key not in given and not key.startswith("teacher.")}
        # a config that names no optimizer has the default's name
        was = {key: "adamw" if key.endswith("optimizer.name") else None for key in kept} | before
        assert {key: found[key] for key in kept} == {key: short(key, was[key]) for key in kept}, path.stem
        assert {*WORDS, *SIZES, "run_dir", "backbone.model", "backbone.quantize", "samples.per"} <= kept


def test_the_papers_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["trackrec"])
    files = [FOLDER / "quickstart.yaml", METHODS[0]]
    made = parse_objects(["fit", *(word for file in files for word in ("--config", str(file)))])
    loop, sets, teacher = made.loop, made.align.sets, made.teacher
    assert (loop.rounds, loop.targets, loop.warmup, loop.warmup_users) == (3, 1, False, None)
    assert (loop.validator_start, loop.validator_lr) == ("base", None)
    assert (made.sampler.n, made.sampler.temperature, made.sampler.top_p) == (10, 1.0, 0.9)
    assert (sets.negatives, sets.min_spread, sets.min_best, sets.drop_flattest) == ("all", 0.0, 0.0, 0.0)
    assert made.rec_tune.model.answers == "vocabulary"
    assert (type(teacher).__name__, teacher.model, teacher.fraction) == ("OpenAITeacher", "gpt-4o", 0.05)
    assert (made.embed.model, made.ctr.features.history_statistics) == ("bert-base-uncased", "none")
    names = {stage.name for stage in build_graph(loop, made.ctr.arms, made.ctr.text.use).stages}
    assert "distill" in names
    assert "warmup/rec_tune" not in names


def test_the_releases_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["trackrec"])
    files = [FOLDER / "quickstart.yaml", METHODS[1]]
    made = parse_objects(["fit", *(word for file in files for word in ("--config", str(file)))])
    loop, sets = made.loop, made.align.sets
    assert (loop.rounds, loop.targets, loop.disjoint, loop.warmup, loop.distill) == (3, 1, False, False, False)
    assert (made.sampler.n, made.sampler.temperature, made.sampler.top_p) == (10, 1.0, 1.0)
    assert made.sampler.max_new_tokens == 512
    assert (sets.negatives, sets.pick, sets.min_best) == (2, "random", 0.5)
    assert (made.align.model.beta, made.align.model.optimizer.weight_decay) == (0.1, 0.05)
    assert made.rec_tune.trainer.max_epochs == 3
    assert (made.prompts.order, type(made.teacher).__name__) == ("release", "TableTeacher")
    assert made.embed.model == "BAAI/bge-m3"
    first, *_ = (
        stage for stage in build_graph(loop, made.ctr.arms, made.ctr.text.use).stages if stage.name == "round-1/sample"
    )
    assert set(first.inputs) == {"data"}  # no G and no V before it
