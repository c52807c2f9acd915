"""What a stage's result depends on, as one hash: configuration values, inputs, code, and versions of what computes."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from typing import Any

from trackrec.pipeline.source_code import class_modules, class_paths, code_of
from trackrec.pipeline.stage import Stage
from trackrec.storage.atomic import stable_hash

# Trainer flags that decide how a run looks, not what it makes.
_COSMETIC = {
    "enable_progress_bar",
    "enable_model_summary",
    "logger",
    "log_every_n_steps",
    "default_root_dir",
    "profiler",
}
# Import name -> distribution, of packages whose minor releases change numbers.
_COMPUTING = {
    "torch": "torch",
    "transformers": "transformers",
    "peft": "peft",
    "sentence_transformers": "sentence-transformers",
}


def fingerprint(
    stage: Stage, config: Mapping[str, Any], seed: int, inputs: Mapping[str, str], contents: Mapping[str, str]
) -> str:
    """The hash under which a stage's result is filed.

    Args:
        stage: what it reads and where its body is.
        config: the resolved configuration as plain types.
        seed: of the run.
        inputs: name -> content hash of each stage it reads.
        contents: config keys -> hashes of the files that they name.
    """
    values = {key: config_value(config, key) for key in stage.keys}
    named, outside = class_modules([*class_paths(values), *stage.classes])
    code = code_of({stage.module, *named})
    facts = {
        "stage": stage.name,
        "seed": seed,
        "config": values,
        "inputs": dict(inputs),
        "code": code.modules,
        "classes": outside,
        "versions": {name: _minor(_COMPUTING[name]) for name in sorted(code.packages & _COMPUTING.keys())},
        "outside": {**stage.outside(), **contents},
    }
    return stable_hash(json.dumps(facts, sort_keys=True, default=str), digits=32)


def config_value(config: Mapping[str, Any], key: str) -> Any:
    """A config value by its dotted key, without what only concerns the looks; None below a null."""
    value: Any = config
    for part in key.split("."):
        value = value[part] if value is not None else None
    return _without_cosmetics(value)


def _without_cosmetics(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_cosmetics(entry) for key, entry in value.items() if key not in _COSMETIC}
    return value


def _minor(distribution: str) -> str:
    """``major.minor`` of an installed distribution; empty where it isn't installed."""
    try:
        return ".".join(importlib.metadata.version(distribution).split(".")[:2])
    except importlib.metadata.PackageNotFoundError:
        return ""
