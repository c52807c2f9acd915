"""Checks that a path holds a model, and hashes the model's files."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from trackrec.runtime.errors import MissingFileError

_SUFFIXES = {".json", ".txt", ".model", ".jinja", ".safetensors", ".bin", ".gguf"}
# Of a large file this many pieces are read, evenly spread, each of this many bytes.
_PIECES = 64
_PIECE_BYTES = 1 << 16


def check_model_path(model: str, key: str) -> None:
    """Fail early if ``model`` is clearly a path and holds no model.

    Raises:
        MissingFileError: names the key and what to do.
    """
    path = Path(model).expanduser()
    looks_like_path = model.startswith((".", "/", "~", "data/")) or model.count("/") > 1
    if looks_like_path and not (path / "config.json").exists() and not list(path.glob("*.gguf")):
        raise MissingFileError(
            f"{key}.model: no model (config.json) in {model!r}. "
            "Give a directory that holds one, or a name on the model hub. `make models` fetches the small ones."
        )


def model_digest(model: str) -> str:
    """A hash of a model's files; empty for a name on the model hub, which ``revision`` identifies.

    Of files above 4 MiB only the size and 64 pieces are hashed: training or merging changes every tensor, and reading
    a large model completely would take longer than the stage that needs the hash.

    Args:
        model: a directory, or a name on the model hub.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return ""
    files = sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES and path.is_file())
    return _digest(tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files), folder)


@lru_cache(maxsize=64)
def _digest(files: tuple[tuple[Path, int, int], ...], folder: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path, size, _changed in files:
        digest.update(f"{path.relative_to(folder)} {size}\n".encode())
        with path.open("rb") as file:
            if size <= _PIECES * _PIECE_BYTES:
                digest.update(file.read())
                continue
            for piece in range(_PIECES):
                file.seek((size - _PIECE_BYTES) * piece // (_PIECES - 1))
                digest.update(file.read(_PIECE_BYTES))
    return digest.hexdigest()
