"""Tables: exact schemas, parts that are whole or absent, and a manifest that is written last."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tiny import reccot_row

from trackrec.storage.atomic import stable_hash
from trackrec.storage.manifest import FORMAT_VERSION, MANIFEST, Manifest, content_hash, read_manifest, write_manifest
from trackrec.storage.parts import part_path, read_dataset, read_table, standing_part, write_part
from trackrec.storage.schemas import KEYS, SCHEMAS, TableError, to_arrow

ITEM = {"item_id": "i0", "title": "T", "attributes": ["Drama"], "year": 1999}


def test_every_table_has_a_key_of_its_own_columns():
    assert set(KEYS) == set(SCHEMAS)
    for table, key in KEYS.items():
        assert set(key) <= set(SCHEMAS[table].names)


def test_a_table_comes_back_as_it_was_written_in_part_order(tmp_path):
    rows = [reccot_row(f"h{i}", token_ids=[i, i + 1], text=f"text {i}", seed=2**59 + i) for i in range(4)]
    write_part(tmp_path, "reccots", rows[2:], part=10)
    write_part(tmp_path, "reccots", rows[:2], part=9)
    assert read_table(tmp_path, "reccots", check_keys=True).to_dicts() == rows
    assert list(read_dataset(tmp_path, "reccots")) == rows
    assert sorted(path.name for path in (tmp_path / "reccots").iterdir()) == [
        "part-00009.parquet",
        "part-00010.parquet",
    ]


def test_frames_and_rows_make_the_same_table():
    frame = pl.DataFrame([ITEM]).select("year", "title", "attributes", "item_id")
    assert to_arrow("items", frame).equals(to_arrow("items", [ITEM]))
    assert to_arrow("items", frame).schema == SCHEMAS["items"]


def test_an_empty_table_keeps_its_columns(tmp_path):
    write_part(tmp_path, "preferences", [])
    assert read_table(tmp_path, "preferences").columns == SCHEMAS["preferences"].names


@pytest.mark.parametrize("form", [pl.DataFrame, list], ids=["frame", "rows"])
def test_missing_and_unknown_columns_are_named(form):
    bad = {"item_id": "i0", "name": "T", "attributes": ["a"], "year": 1}
    with pytest.raises(TableError, match=r"table items: missing columns \['title'\], unknown columns \['name'\]"):
        to_arrow("items", form([bad]))


@pytest.mark.parametrize(
    "change",
    [{"year": "soon"}, {"year": 2**40}, {"year": 1.5}, {"attributes": "Drama"}, {"attributes": [["a"]]}],
    ids=["text as number", "too large", "a fraction", "text as list", "list of lists"],
)
def test_values_that_do_not_fit_are_table_errors(change):
    with pytest.raises(TableError, match="table items"):
        to_arrow("items", pl.DataFrame([ITEM | change]))


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    write_part(tmp_path, "items", [ITEM])
    with pytest.raises(TableError):
        write_part(tmp_path, "items", [ITEM | {"year": "soon"}])
    assert read_table(tmp_path, "items").to_dicts() == [ITEM]


def test_a_part_is_whole_or_absent(tmp_path, monkeypatch):
    """The disk is full in the middle of the write: no part, and no temporary file either."""
    whole = pq.write_table

    def full_disk(table, where, **kwargs):
        whole(table, where, **kwargs)
        where.write_bytes(where.read_bytes()[:40])
        raise OSError("No space left on device")

    monkeypatch.setattr(pq, "write_table", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_part(tmp_path, "items", [ITEM])
    assert list((tmp_path / "items").iterdir()) == []
    monkeypatch.undo()
    write_part(tmp_path, "items", [ITEM])
    monkeypatch.setattr(pq, "write_table", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_part(tmp_path, "items", [ITEM | {"title": "new"}])
    assert read_table(tmp_path, "items").to_dicts() == [ITEM]


def test_a_missing_table_says_what_to_do(tmp_path):
    with pytest.raises(TableError, match=r"table items: no part under .*Run the stage that writes it"):
        read_table(tmp_path, "items")


def test_a_broken_part_is_named(tmp_path):
    write_part(tmp_path, "items", [ITEM])
    path = part_path(tmp_path, "items", 0)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TableError, match=r"part-00000\.parquet can't be read .*Delete it and run the stage"):
        read_table(tmp_path, "items")


@given(st.integers(0, 10_000), st.integers(1, 300), st.booleans())
@example(1322, 1, False)  # a column's name that is no UTF-8
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_part_is_a_table_error_and_nothing_else(tmp_path, place, length, cut):
    """Torn anywhere, or noise anywhere: never a traceback of the reader's."""
    shutil.rmtree(tmp_path / "reccots", ignore_errors=True)
    write_part(tmp_path, "reccots", [reccot_row(f"h{i}", text=f"text {i}", token_ids=[i] * 9) for i in range(40)])
    path = part_path(tmp_path, "reccots", 0)
    whole = path.read_bytes()
    place %= len(whole)
    noise = bytes(255 - byte for byte in whole[place : place + length])
    path.write_bytes(whole[:place] if cut else whole[:place] + noise + whole[place + length :])
    try:
        assert len(read_table(tmp_path, "reccots")) <= 40
    except TableError as error:
        assert str(path) in str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017


def test_a_standing_part_is_read_or_dropped(tmp_path, caplog):
    assert standing_part(tmp_path, "items", 0) is None
    write_part(tmp_path, "items", [ITEM])
    found = standing_part(tmp_path, "items", 0)
    assert found is not None
    assert found.to_dicts() == [ITEM]
    path = part_path(tmp_path, "items", 0)
    path.write_bytes(path.read_bytes()[:-20])
    assert standing_part(tmp_path, "items", 0) is None
    assert not path.exists()
    assert "part-00000.parquet" in caplog.text
    assert "it is made again" in caplog.text


def test_a_part_of_another_schema_is_an_error(tmp_path):
    path = part_path(tmp_path, "items", 0)
    path.parent.mkdir()
    pl.DataFrame({"item_id": ["i0"], "name": ["T"]}).write_parquet(path)
    with pytest.raises(TableError, match=r"has columns \['item_id', 'name'\], want \['item_id', 'title'"):
        read_table(tmp_path, "items")


def test_a_part_of_other_types_is_an_error(tmp_path):
    path = part_path(tmp_path, "items", 0)
    path.parent.mkdir()
    pl.DataFrame([ITEM | {"year": "soon"}]).write_parquet(path)
    with pytest.raises(TableError, match="table items"):
        read_table(tmp_path, "items")


def test_a_key_that_repeats_is_found_on_request(tmp_path):
    write_part(tmp_path, "items", [ITEM], part=0)
    write_part(tmp_path, "items", [ITEM | {"title": "other"}], part=1)
    assert len(read_table(tmp_path, "items")) == 2
    with pytest.raises(TableError, match=r"the key \('item_id',\) repeats"):
        read_table(tmp_path, "items", check_keys=True)


# -- optional columns ---------------------------------------------------------------------------------------------

RATING = {"user_id": "u", "item_id": "i", "rating": 4.0, "timestamp": 10, "row": 0}


def test_optional_columns_stand_behind_the_others_and_may_be_null(tmp_path):
    frame = pl.DataFrame([{"position": 3} | RATING, {"position": None} | RATING])
    write_part(tmp_path, "interactions", frame)
    read = read_table(tmp_path, "interactions")
    assert read.columns == [*SCHEMAS["interactions"].names, "position"]
    assert read["position"].to_list() == [3, None]
    assert read_dataset(tmp_path, "interactions").column_names == read.columns


def test_a_table_without_its_optional_columns_keeps_its_bytes(tmp_path):
    """Those that were written before there were any."""
    write_part(tmp_path, "interactions", pl.DataFrame([RATING]))
    assert pq.read_schema(part_path(tmp_path, "interactions", 0)).equals(SCHEMAS["interactions"])


def test_parts_agree_on_optional_columns(tmp_path):
    write_part(tmp_path, "interactions", pl.DataFrame([RATING | {"position": 1}]), part=0)
    write_part(tmp_path, "interactions", pl.DataFrame([RATING]), part=1)
    with pytest.raises(TableError, match=r"part-00001\.parquet has columns .*'row'\], want .*'row', 'position'\]"):
        read_table(tmp_path, "interactions")


def test_no_table_has_the_optional_columns_of_another(tmp_path):
    with pytest.raises(TableError, match=r"unknown columns \['position'\]"):
        to_arrow("items", pl.DataFrame([ITEM | {"position": 1}]))


# -- the manifest -------------------------------------------------------------------------------------------------


def test_a_manifest_comes_back(tmp_path):
    assert read_manifest(tmp_path) is None
    manifest = Manifest("data", "f", "c", rows={"items": 1}, notes={"lost": 0}, seed=7)
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]


def test_a_manifest_of_another_version_is_an_error(tmp_path):
    write_manifest(tmp_path, Manifest("data", "f", "c"))
    values = json.loads((tmp_path / MANIFEST).read_text()) | {"format_version": FORMAT_VERSION + 1}
    (tmp_path / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(TableError, match=rf"format_version {FORMAT_VERSION + 1}, this trackrec reads {FORMAT_VERSION}"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format_version": 1}', '{"format_version": 1, "what": 2}'])
def test_a_broken_manifest_is_an_error(tmp_path, text):
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(TableError, match=r"can't be read .*Delete .* and run again"):
        read_manifest(tmp_path)


def test_the_content_hash_knows_names_and_bytes_and_nothing_else(tmp_path):
    write_part(tmp_path, "items", [ITEM])
    first = content_hash(tmp_path)
    for name in ("logs/run.csv", "checkpoints/last.ckpt", "config.yaml", MANIFEST):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("anything")
    assert content_hash(tmp_path) == first
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "weights").write_text("a")
    with_adapter = content_hash(tmp_path)
    assert with_adapter != first
    (tmp_path / "adapter" / "weights").rename(tmp_path / "adapter" / "other")
    assert content_hash(tmp_path) not in (first, with_adapter)


def test_equal_rows_are_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write_part(tmp_path / name, "items", [ITEM])
    assert content_hash(tmp_path / "a") == content_hash(tmp_path / "b")


# -- hashes -------------------------------------------------------------------------------------------------------


def test_stable_hash_is_the_same_in_another_process():
    code = "from trackrec.storage.atomic import stable_hash; print(stable_hash('a', 1, 'é'))"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert seen == {stable_hash("a", 1, "é")}


def test_stable_hash_tells_its_parts_apart():
    assert stable_hash("ab", "c") != stable_hash("a", "bc")
    assert stable_hash("a", 1) != stable_hash("a", 11)
    assert len(stable_hash("a", digits=40)) == 40
