"""Reads compressed text files as a stream of plain bytes: gzip, bzip2, xz, Zstandard, and zip archives of one file.

What a file is, its first bytes say, not its name: browsers unpack files and keep the names, people rename archives.
"""

from __future__ import annotations

import codecs
import contextlib
import importlib
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from trackrec.interactions.source import DataError
from trackrec.runtime.errors import reason

PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
"""The endings of compressed files."""

_MARKS = {
    "gzip": rb"\x1f\x8b",
    "bzip2": rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)",
    "xz": rb"\xfd7zXZ\x00",
    "Zstandard": rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18",
    "zip": rb"PK(?:\x03\x04|\x05\x06)",
}
_SHORT_MARKS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")
_TAR = (257, b"ustar")
# Bytes that no text begins with, but what is left of a broken archive does.
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a]")
_START_BYTES = 512
_COPY_BYTES = 1 << 22
# gzip and zip pack at most a thousandfold, and ratings as text ten- or twentyfold.
_BOMB_BYTES, _BOMB_FACTOR = 1 << 30, 200
FETCH_AGAIN = "Fetch the file again."

_Opener = Callable[[Path, str, BinaryIO], Any]


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes:
        """Up to that many bytes; none at the end."""


class PlainFile:
    """The plain bytes of a file, from the start, and the ``name`` that the file has once it is unpacked."""

    def __init__(self, path: Path, key: str, kind: str | None, stream: _Stream, name: str) -> None:
        self.path, self.key, self.kind, self.name = path, key, kind, name
        self._stream = stream
        self._packed_bytes = path.stat().st_size
        self._bytes = 0
        self._start = b""
        while len(self._start) < _START_BYTES and (more := self._next(_START_BYTES - len(self._start))):
            self._start += more
        if kind is not None and (_kind(self._start) or self._start[_TAR[0] :].startswith(_TAR[1])):
            raise DataError(f"{key}: {path} holds another archive. Unpack it.")

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; none at the end.

        Raises:
            DataError: the file can't be unpacked, or unpacks to far more than a text could.
        """
        if self._start:
            data, self._start = self._start[:size], self._start[size:]
            return data
        return self._next(size)

    def _next(self, size: int) -> bytes:
        with _told(self.path, self.key, self.kind):
            data = self._stream.read(size)
        self._bytes += len(data)
        if self.kind is not None and self._bytes > max(_BOMB_BYTES, _BOMB_FACTOR * self._packed_bytes):
            raise DataError(
                f"{self.key}: {self.path} unpacks to more than {_BOMB_FACTOR} times its size. Is that a file of "
                "ratings? If it is, unpack it yourself."
            )
        return data


@contextlib.contextmanager
def open_plain(path: Path, key: str) -> Iterator[PlainFile]:
    """A file's plain bytes, whatever it is packed with.

    Args:
        path: The file.
        key: The setting that names it, for errors.

    Raises:
        DataError: it can't be read or unpacked, or holds several files or another archive.
    """
    with contextlib.ExitStack() as stack:
        with _told(path, key, None):
            file = stack.enter_context(path.open("rb"))
            start = file.read(_START_BYTES)
            file.seek(0)
        kind = _kind(start)
        name = path.name
        if path.suffix.lower() in PACKED:
            if kind is None and _is_remnant(start):
                raise DataError(f"{key}: {path} is no {path.suffix} file, nor text. Is it cut off? {FETCH_AGAIN}")
            name = path.stem
        stream: _Stream = file
        if kind == "zip":
            with _told(path, key, kind):
                archive = stack.enter_context(zipfile.ZipFile(file))
            member = _only_member(path, key, archive)
            name = Path(member.filename).name
            with _told(path, key, kind):
                stream = stack.enter_context(archive.open(member))
        elif kind is not None:
            with _told(path, key, kind):
                stream = stack.enter_context(_OPENERS[kind](path, key, file))
        yield PlainFile(path, key, kind, stream, name)


@contextlib.contextmanager
def plain_path(path: Path, key: str) -> Iterator[Path]:
    """A file with the plain bytes: the file itself, or a temporary copy that is unpacked.

    The copy lies in the folder for temporary files, which the variable TMPDIR names.

    Raises:
        DataError: see `open_plain`; or there is no room for the copy.
    """
    with open_plain(path, key) as file:
        if file.kind is None:
            yield path
            return
        with temporary_file(path, key, iter(lambda: file.read(_COPY_BYTES), b"")) as copy:
            yield copy


@contextlib.contextmanager
def temporary_file(path: Path, key: str, blocks: Iterable[bytes]) -> Iterator[Path]:
    """A temporary file of the blocks, which are made from the file ``path``.

    Raises:
        DataError: there is no room for it; or what ``blocks`` raises.
    """
    with contextlib.ExitStack() as stack:
        try:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trackrec."))) / "plain"
            with place.open("wb") as file:
                for block in blocks:
                    file.write(block)
        except OSError as error:
            raise DataError(
                f"{key}: {path} can't be unpacked into {tempfile.gettempdir()} ({reason(error)}). Make room there, or "
                "set the variable TMPDIR to another folder."
            ) from error
        yield place


def _kind(start: bytes) -> str | None:
    """What the first bytes of a file say that it is packed with."""
    return next((kind for kind, mark in _MARKS.items() if re.match(mark, start)), None)


def _is_remnant(start: bytes) -> bool:
    """Whether the first bytes are neither those of a text, though it be UTF-16, nor of a packed file that is whole."""
    if not start or start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return False
    cut_off = any(mark.startswith(start[: len(mark)]) for mark in _SHORT_MARKS)
    return cut_off or _CONTROL.search(start) is not None


def _only_member(path: Path, key: str, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    """The one file of a zip archive; what macOS adds of its own doesn't count."""
    members = [
        each
        for each in archive.infolist()
        if not each.is_dir() and not each.filename.startswith("__MACOSX/") and not each.filename.endswith(".DS_Store")
    ]
    names = [each.filename for each in members]
    if "[Content_Types].xml" in names:
        raise DataError(f"{key}: {path} is a workbook of a spreadsheet program. Save its sheet as CSV.")
    if len(members) != 1:
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        holds = f"{len(names)} files: {', '.join(name[:80] for name in names[:10])}{more}" if names else "no file"
        raise DataError(f"{key}: {path} holds {holds}. Unpack it and name the file to read.")
    if members[0].flag_bits & 1:
        raise DataError(f"{key}: {path} is encrypted. Unpack it.")
    return members[0]


@contextlib.contextmanager
def _told(path: Path, key: str, kind: str | None) -> Iterator[None]:
    """Makes whatever the unpackers raise on broken files one error that names the file."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # zlib.error, LZMAError, BadZipFile, struct.error, EOFError, NotImplementedError ...
        what = f" as {kind}" if kind else ""
        raise DataError(f"{key}: {path} can't be read{what} ({reason(error)}). Is it cut off? {FETCH_AGAIN}") from error


def _standard(module: str) -> _Opener:
    """An unpacker of the standard library. Pythons that were built without its C library lack the module."""

    def make(path: Path, key: str, file: BinaryIO) -> Any:
        try:
            unpacker = importlib.import_module(module)
        except ImportError as error:
            raise DataError(
                f"{key}: {path} needs Python's module {module}, which this Python was built without. Unpack the file, "
                "or install a Python that has it."
            ) from error
        return unpacker.open(file)

    return make


def _zstandard(path: Path, key: str, file: BinaryIO) -> Any:
    # Python's own comes with 3.14; pyarrow is here anyway.
    import pyarrow as pa

    if not pa.Codec.is_available("zstd"):
        raise DataError(f"{key}: {path} needs pyarrow with Zstandard: pip install --force-reinstall pyarrow.")
    return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")


_OPENERS = {
    "gzip": _standard("gzip"),
    "bzip2": _standard("bz2"),
    "xz": _standard("lzma"),
    "Zstandard": _zstandard,
}
