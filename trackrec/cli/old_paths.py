"""Class paths of before the rooms: saved configurations and overlays that hold them keep working.

Only modules whose classes a configuration can name are here. A path is resolved where it is imported, so it works in a
file, on the command line and in a list of callbacks alike.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

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
    """Plain configuration values with today's class paths in the place of moved ones."""
    if isinstance(values, dict):
        return {key: _today(value) if key == "class_path" else renamed(value) for key, value in values.items()}
    return [renamed(value) for value in values] if isinstance(values, list) else values


def _today(path: Any) -> Any:
    module, _, name = str(path).rpartition(".")
    return f"{MOVED[module]}.{name}" if module in MOVED else path


def resolve_old_paths() -> None:
    """Let imports of moved modules find them; a second call changes nothing."""
    if not any(isinstance(finder, _OldModules) for finder in sys.meta_path):
        sys.meta_path.append(_OldModules())
