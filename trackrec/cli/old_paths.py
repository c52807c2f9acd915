"""Configurations of before: class paths from before the rooms, and the arguments of `Table` before they had groups.

Class paths keep working everywhere. Only modules whose classes a configuration can name are here. A path is resolved
where it is imported, so it works in a file, on the command line and in a list of callbacks alike.

Arguments of `Table` keep working in the configurations that stages have saved, so that a finished run can be reported
and asked. In a file that a person wrote, and on the command line, they are an error that names the keys of today.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from trackrec.cli.errors import config_files

MOVED = {
    "trackrec.ctr.autoint": "trackrec.ctr.nets.autoint",
    "trackrec.ctr.bst": "trackrec.ctr.nets.bst",
    "trackrec.ctr.dcnv2": "trackrec.ctr.nets.dcnv2",
    "trackrec.ctr.deepfm": "trackrec.ctr.nets.deepfm",
    "trackrec.ctr.dien": "trackrec.ctr.nets.dien",
    "trackrec.ctr.din": "trackrec.ctr.nets.din",
    "trackrec.ctr.dnn": "trackrec.ctr.nets.dnn",
    "trackrec.ctr.fibinet": "trackrec.ctr.nets.fibinet",
    "trackrec.ctr.lightfm": "trackrec.ctr.nets.lightfm",
    "trackrec.ctr.xdeepfm": "trackrec.ctr.nets.xdeepfm",
    "trackrec.ctr.connector": "trackrec.ctr.connectors.mlp",
    "trackrec.ctr.gated": "trackrec.ctr.connectors.gated",
    "trackrec.ctr.hea": "trackrec.ctr.connectors.hea",
    "trackrec.interactions.amazon": "trackrec.interactions.sources.amazon",
    "trackrec.interactions.movielens": "trackrec.interactions.sources.movielens",
    "trackrec.interactions.table": "trackrec.interactions.sources.table",
    "trackrec.llm.auto_sampler": "trackrec.llm.sampling.auto_sampler",
    "trackrec.llm.checkpoints": "trackrec.llm.training.checkpoints",
    "trackrec.llm.hf_sampler": "trackrec.llm.sampling.hf_sampler",
    "trackrec.llm.sampler": "trackrec.llm.sampling.sampler",
    "trackrec.llm.vllm_sampler": "trackrec.llm.vllm.sampler",
}


TABLE_KEYS = {
    **{key: f"columns.{key}" for key in ("user", "item", "rating", "label", "impressions", "timestamp", "position")},
    **{key: f"columns.{key}" for key in ("split", "history", "history_ratings")},
    **{"item_id": "item_columns.id", "title": "item_columns.title", "attributes": "item_columns.attributes"},
    **{"year": "item_columns.year", "user_id": "user_columns.id", "user_attributes": "user_columns.attributes"},
    **{key: f"text.{key}" for key in ("separator", "header", "quote", "history_separator", "attribute_separator")},
}
"""Arguments that `Table` had beside each other, and where they are now, under ``dataset.init_args``."""

_ALWAYS_SAVED = {"user", "item", "separator", "header", "quote", "min_user_ratings"}
"""A saved configuration holds every argument, with its default; a person writes only some."""


class _OldModules(MetaPathFinder, Loader):
    """Gives the module of today for a name of before, and says so once."""

    def __init__(self) -> None:
        self._specs: dict[str, ModuleSpec | None] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A spec for the names of `MOVED`, and for no other."""
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module of today."""
        sys.stderr.write(f"{spec.name} is {MOVED[spec.name]} now: change the class path in your configuration.\n")
        module = importlib.import_module(MOVED[spec.name])
        self._specs[module.__name__] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """The module was executed when it was imported; it keeps its own spec, which the import system replaced."""
        module.__spec__ = self._specs.pop(module.__name__)


def renamed(values: Any) -> Any:
    """Plain configuration values with today's class paths in the place of moved ones, and `Table`'s groups."""
    if isinstance(values, dict):
        values = {key: _today(value) if key == "class_path" else renamed(value) for key, value in values.items()}
        return _with_groups(values)
    return [renamed(value) for value in values] if isinstance(values, list) else values


def _today(path: Any) -> Any:
    module, _, name = str(path).rpartition(".")
    return f"{MOVED[module]}.{name}" if module in MOVED else path


def grouped(text: str) -> str:
    """The YAML of a configuration; if a stage saved it before `Table` had groups, with them, and a notice."""
    if "_separator" not in text:
        return text
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    dataset = values.get("dataset") if isinstance(values, dict) else None
    if not isinstance(dataset, dict) or _with_groups(dataset) == dataset:
        return text
    sys.stderr.write("The saved configuration has Table's arguments as they were before they had groups: translated.\n")
    return yaml.safe_dump({**values, "dataset": _with_groups(dataset)}, sort_keys=False)


def old_table_keys(args: Sequence[str]) -> list[str]:
    """At most five lines about arguments that `Table` no longer has, in files or on the command line; else empty."""
    found: dict[str, str] = {}
    class_path = ""
    for file in config_files(args):
        dataset = _dataset(file)
        class_path = str(dataset.get("class_path", class_path))
        own = dataset.get("init_args")
        if isinstance(own, Mapping) and not own.keys() >= _ALWAYS_SAVED:
            found |= {key: f"{file}: " for key in own if key in TABLE_KEYS}
    for word, value in zip(args, [*args[1:], ""], strict=True):
        flag, equals, given = word.partition("=")
        if flag in ("--dataset", "--dataset.class_path"):
            class_path = given if equals else value
        key = flag.removeprefix("--dataset.").removeprefix("init_args.")
        if flag.startswith("--dataset.") and key in TABLE_KEYS:
            found[key] = ""
    if not found or not _is_table(class_path):
        return []
    first, *others = found
    lines = [f"{found[first]}dataset.init_args.{first} is now dataset.init_args.{TABLE_KEYS[first]}."]
    if others:
        lines.append(f"Likewise {', '.join(f'{key} is {TABLE_KEYS[key]}' for key in others)}.")
    return ["trackrec: error:", *lines, "configs/own_ratings.yaml shows the groups."]


def _dataset(file: str) -> Mapping[str, Any]:
    """The section ``dataset`` of a configuration file; empty where there is none, or no file."""
    try:
        values = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except OSError:
        return {}
    dataset = values.get("dataset") if isinstance(values, dict) else None
    return {"class_path": dataset} if isinstance(dataset, str) else dataset if isinstance(dataset, dict) else {}


def _with_groups(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry of a class; that of a `Table` with all of its former arguments gets today's."""
    old = entry.get("init_args")
    if not _is_table(entry.get("class_path")) or not isinstance(old, dict) or not old.keys() >= _ALWAYS_SAVED:
        return entry
    new: dict[str, Any] = {key: value for key, value in old.items() if key not in TABLE_KEYS}
    for key, path in TABLE_KEYS.items():
        group, _, name = path.partition(".")
        if key in old:
            new.setdefault(group, {})[name] = old[key]
    return {**entry, "init_args": new}


def _is_table(class_path: Any) -> bool:
    path = str(class_path)
    return path == "Table" or (path.startswith("trackrec.") and path.endswith(".Table"))


def resolve_old_paths() -> None:
    """Let imports of moved modules find them; a second call changes nothing."""
    if not any(isinstance(finder, _OldModules) for finder in sys.meta_path):
        sys.meta_path.append(_OldModules())
