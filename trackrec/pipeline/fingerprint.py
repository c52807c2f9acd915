"""What a stage's result depends on, as one hash."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from trackrec.pipeline.stage import StageError
from trackrec.storage.atomic import stable_hash

_PACKAGE = Path(__file__).parent.parent
# Trainer flags that decide how a run looks, not what it makes.
_COSMETIC = {
    "enable_progress_bar",
    "enable_model_summary",
    "logger",
    "log_every_n_steps",
    "default_root_dir",
    "profiler",
}


def _without_cosmetics(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_cosmetics(entry) for key, entry in value.items() if key not in _COSMETIC}
    return value


def _code_hash(room: str) -> str:
    """Hash of a file or of the Python files of a folder of the package."""
    path = _PACKAGE / room
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    if not files:
        raise StageError(f"no code under {path}")
    return stable_hash(*(hashlib.sha256(file.read_bytes()).hexdigest() for file in files))
