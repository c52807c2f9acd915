"""Compressed files give the bytes that were packed; broken ones, bombs and archives of several files are errors."""

from __future__ import annotations

import gzip
import io
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packers import PACKERS, zip_of_one, zipped
from table_files import quick

from trackrec.interactions import DataError
from trackrec.interactions.sources import unpack as room
from trackrec.interactions.sources.unpack import PACKED, open_plain, plain_path

KEY = "dataset.init_args.ratings"
endings = pytest.mark.parametrize("ending", PACKERS)


def unpacked(path: Path, size: int = 1 << 20) -> bytes:
    with open_plain(path, KEY) as file:
        return b"".join(iter(lambda: file.read(size), b""))


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_all_endings_have_a_packer_here() -> None:
    assert tuple(PACKERS) == PACKED


@endings
@quick
@given(data=st.binary(max_size=2000).filter(lambda data: room._kind(data) is None), size=st.integers(1, 600))
def test_what_was_packed_comes_back(tmp_path: Path, ending: str, data: bytes, size: int) -> None:
    """Read in parts of any size, or as a copy; whatever the file is called."""
    for name in (f"log.csv{ending}", "log.csv"):
        path = put(tmp_path / name, PACKERS[ending](data))
        assert unpacked(path, size) == data
        with plain_path(path, KEY) as copy:
            assert copy.read_bytes() == data
            assert copy != path
        assert not copy.exists()


@endings
def test_the_name_inside_decides_what_the_text_is(tmp_path: Path, ending: str) -> None:
    with open_plain(put(tmp_path / f"log.JSON{ending}", PACKERS[ending](b"{}")), KEY) as file:
        assert file.name == ("data" if ending == ".zip" else "log.JSON")
    inside = put(tmp_path / "all.zip", zip_of_one(b"{}", "yelp/review__json"))
    with open_plain(inside, KEY) as file:
        assert file.name == "review.json"


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
def test_parts_packed_one_after_another_are_all_read(tmp_path: Path, ending: str) -> None:
    parts = PACKERS[ending](b"one\n") + PACKERS[ending](b"two\n")
    assert unpacked(put(tmp_path / "log", parts)) == b"one\ntwo\n"


def test_plain_text_stays_where_it_is(tmp_path: Path) -> None:
    """Browsers unpack what they fetch and keep the name."""
    for name in ("log.csv", "log.csv.gz", "log.zip"):
        path = put(tmp_path / name, "name,ünits\nPK,BZh9\n".encode())
        with plain_path(path, KEY) as copy:
            assert copy == path
        assert unpacked(path).startswith(b"name")


@endings
def test_a_file_cut_off_is_named(tmp_path: Path, ending: str) -> None:
    whole = PACKERS[ending](bytes(range(32, 127)) * 99)
    for cut in (3, 9, len(whole) // 2, len(whole) - 1):
        path = put(tmp_path / f"log.csv{ending}", whole[:cut])
        with pytest.raises(DataError, match=rf"^{KEY}: .*log.csv{ending} .*Is it cut off\? Fetch the file again"):
            unpacked(path)


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zip"])
def test_a_changed_byte_is_found(tmp_path: Path, ending: str) -> None:
    """By the checksum of the format. Many writers of Zstandard leave it out."""
    text = b"".join(b"%d,%d\n" % (n, n * n) for n in range(999))
    whole = bytearray(PACKERS[ending](text))
    whole[len(whole) // 2] ^= 0x55
    path = put(tmp_path / f"log.csv{ending}", bytes(whole))
    with pytest.raises(DataError, match=rf"^{KEY}: .*log.csv{ending} can't be read as "):
        unpacked(path)


def test_a_name_that_promises_more_than_the_file_holds_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"log.csv.gz is no .gz file, nor text. Is it cut off\?"):
        unpacked(put(tmp_path / "log.csv.gz", b"\x8b\x1f\x08\x00" * 9))


def test_a_zip_of_several_files_lists_them(tmp_path: Path) -> None:
    several = zipped(ratings__csv=b"a\n", movies__csv=b"b\n")
    with pytest.raises(DataError, match=r"all.zip holds 2 files: ratings.csv, movies.csv. Unpack it and name the file"):
        unpacked(put(tmp_path / "all.zip", several))
    many = zipped(**{f"part{n}": b"" for n in range(12)})
    with pytest.raises(DataError, match=r"holds 12 files: part0, .*part9 and 2 more\. Unpack"):
        unpacked(put(tmp_path / "all.zip", many))
    with pytest.raises(DataError, match=r"all.zip holds no file"):
        unpacked(put(tmp_path / "all.zip", zipped()))
    book = zipped(**{"[Content_Types]__xml": b"", "xl/workbook__xml": b""})
    with pytest.raises(DataError, match=r"log.xlsx is a workbook of a spreadsheet program. Save its sheet as CSV"):
        unpacked(put(tmp_path / "log.xlsx", book))


def test_what_macos_adds_to_a_zip_does_not_count(tmp_path: Path) -> None:
    members = {"data/log__csv": b"a,b\n", "__MACOSX/data/._log__csv": b"\x00", "data/__DS_Store": b"\x00"}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.mkdir("data")
        for name, data in members.items():
            archive.writestr(name if name.startswith("__MACOSX") else name.replace("__", "."), data)
    assert unpacked(put(tmp_path / "log.zip", file.getvalue())) == b"a,b\n"


def test_an_encrypted_zip_is_named(tmp_path: Path) -> None:
    data = bytearray(zip_of_one(b"a,b\n"))
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + at] |= 1
    with pytest.raises(DataError, match=r"log.zip is encrypted. Unpack it"):
        unpacked(put(tmp_path / "log.zip", bytes(data)))


def test_archives_in_archives_are_named(tmp_path: Path) -> None:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("log.csv"))
    for name, inside in (("log.tar.gz", tar.getvalue()), ("log.csv.gz", gzip.compress(b"a"))):
        with pytest.raises(DataError, match=rf"{name} holds another archive. Unpack it"):
            unpacked(put(tmp_path / name, gzip.compress(inside)))


@endings
def test_a_bomb_is_defused(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kilobytes that become more than the limit, here of a megabyte."""
    monkeypatch.setattr(room, "_BOMB_BYTES", 1 << 20)
    path = put(tmp_path / f"log.csv{ending}", PACKERS[ending](b"0" * (8 << 20)))
    with pytest.raises(DataError, match=rf"^{KEY}: .*log.csv{ending} unpacks to more than 200 times its size"):
        unpacked(path)
    with pytest.raises(DataError, match=r"unpacks to more than"), plain_path(path, KEY):
        pass


def test_a_full_disk_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    path = put(tmp_path / "log.csv.gz", gzip.compress(b"a,b\n"))
    told = rf"^{KEY}: .*log.csv.gz can't be unpacked into .*gone .*TMPDIR"
    with pytest.raises(DataError, match=told), plain_path(path, KEY):
        pass


def test_a_missing_unpacker_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bz2", None)
    with pytest.raises(DataError, match=rf"^{KEY}: .*log.bz2 needs Python's module bz2, which this Python was built"):
        unpacked(put(tmp_path / "log.bz2", PACKERS[".bz2"](b"a")))
    monkeypatch.setattr(pa, "Codec", SimpleNamespace(is_available=lambda name: False))
    path = put(tmp_path / "log.zst", b"\x28\xb5\x2f\xfd" + b"a" * 9)
    with pytest.raises(DataError, match=r"log.zst needs pyarrow with Zstandard: pip install"):
        unpacked(path)
