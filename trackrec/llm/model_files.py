"""Whether there is a model behind a path, and whether it is still the same one."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from trackrec.runtime.errors import MissingFileError

_SUFFIXES = {".json", ".txt", ".model", ".jinja", ".safetensors", ".bin", ".gguf"}
_PIECES, _PIECE = 64, 1 << 16  # of a large file, evenly spread


def check_model_path(model: str, key: str) -> None:
    """Fail early where ``model`` is plainly a path, and nothing is there.

    Raises:
        MissingFileError: naming the key and what to do.
    """
    path = Path(model).expanduser()
    looks_like_path = model.startswith((".", "/", "~", "data/")) or model.count("/") > 1
    if looks_like_path and not (path / "config.json").exists() and not list(path.glob("*.gguf")):
        raise MissingFileError(
            f"{key}.model: no model (config.json) in {model!r}. "
            "Give a directory that holds one, or a name on the model hub. `make models` fetches the small ones."
        )


def model_digest(model: str) -> str:
    """A hash of a model's files; empty for a name on the model hub, whose ``revision`` says it.

    Of files above 4 MiB it reads the size and 64 pieces: training or merging moves every tensor, and reading all of a
    large model would take longer than what depends on it.

    Args:
        model: a directory, or a name.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return ""
    files = sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES and path.is_file())
    return _digest(tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files), folder)


@lru_cache(maxsize=64)
def _digest(files: tuple[tuple[Path, int, int], ...], folder: Path) -> str:
    found = hashlib.blake2b(digest_size=16)
    for path, size, _changed in files:
        found.update(f"{path.relative_to(folder)} {size}\n".encode())
        with path.open("rb") as file:
            if size <= _PIECES * _PIECE:
                found.update(file.read())
                continue
            for piece in range(_PIECES):
                file.seek((size - _PIECE) * piece // (_PIECES - 1))
                found.update(file.read(_PIECE))
    return found.hexdigest()
