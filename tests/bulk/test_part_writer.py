"""The body of a part: who is written about, what is kept, and that nothing is done twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from made_bulk import DAY, NOW, made_writer, ratings

from trackrec.bulk.part import PartName, PartWriter, failed_file
from trackrec.bulk.refresh import plan_parts
from trackrec.bulk.settings import BulkSettings, RefreshPolicy, Tier
from trackrec.storage.generations import finish_generation, open_generation


def written(writer: PartWriter) -> tuple[pl.DataFrame, dict[str, int]]:
    """All parts, as one frame and their counts added up."""
    totals: dict[str, int] = {}
    for name in plan_parts(writer).parts:
        for key, value in writer(name).items():
            if isinstance(value, int):
                totals[key] = totals.get(key, 0) + value
    info = {"name": "gen-1", "made_at": writer.now, "buckets": writer.log.buckets}
    info |= {"tiers": {tier.name: {} for tier in writer.settings.tiers}}
    finish_generation(writer.work / "gen", info)
    frames = list(open_generation(writer.work / "gen").iter_frames())
    return pl.concat(frames).sort("user_id"), totals


def test_every_user_gets_one_text_of_all_that_is_known(tmp_path: Path) -> None:
    asked: list[str] = []
    rows, counts = written(made_writer(tmp_path / "a", ratings(20, 4), asked))
    assert rows["user_id"].to_list() == sorted(f"u{user:02d}" for user in range(20)) == sorted(asked)
    assert rows.row(3, named=True)["text"] == "Film 3, Film 4, Film 5, Film 6"
    assert set(rows["n_ratings"]) == {4}
    assert rows["newest"].to_list() == [NOW - (user + 1) * DAY for user in range(20)]
    assert (counts["written"], counts["kept"], counts["prompt_tokens"], counts["new_tokens"]) == (20, 0, 200, 100)


def test_only_the_changed_are_written_and_the_others_rows_stay(tmp_path: Path) -> None:
    first, _ = written(made_writer(tmp_path / "a", ratings(20, 4), []))
    more = ratings(20, 4, extra=[("u03", "i9"), ("u07", "i1")])
    asked: list[str] = []
    later = made_writer(tmp_path / "b", more, asked, parent=tmp_path / "a" / "gen", now=NOW + DAY)
    rows, counts = written(later)
    assert sorted(asked) == ["u03", "u07"]
    assert (counts["written"], counts["kept"]) == (2, 18)
    changed = pl.col("user_id").is_in(asked)
    assert rows.filter(~changed).equals(first.filter(~changed))
    assert rows.filter(changed)["text"].str.contains("Film 9|Film 1").all()
    assert set(rows.filter(changed)["made_at"]) == {NOW + DAY}


def test_the_buckets_may_have_another_number_than_those_of_the_parent(tmp_path: Path) -> None:
    first, _ = written(made_writer(tmp_path / "a", ratings(40, 4), [], buckets=4))
    for buckets in (1, 16):
        asked: list[str] = []
        work = tmp_path / str(buckets)
        writer = made_writer(work, ratings(40, 4), asked, parent=tmp_path / "a" / "gen", buckets=buckets)
        rows, counts = written(writer)
        assert (asked, counts["kept"]) == ([], 40)
        assert rows.equals(first)


def test_a_prompt_that_is_the_same_as_before_keeps_its_text(tmp_path: Path) -> None:
    # The prompt lists the newest 5; what is older than these changes nothing.
    settings = BulkSettings(embed=False, policy=RefreshPolicy(min_new=1))
    log = ratings(4, 9)
    written(made_writer(tmp_path / "a", log, [], settings=settings, longest=5))
    older = log.head(1).with_columns(pl.col("timestamp") - 1000 * DAY, item_id=pl.lit("i9"))
    asked: list[str] = []
    writer = made_writer(tmp_path / "b", pl.concat([log, older]), asked, tmp_path / "a" / "gen", settings, longest=5)
    rows, counts = written(writer)
    assert asked == []
    assert (counts["same_prompt"], counts["written"], counts["kept"]) == (1, 0, 4)
    assert rows["n_ratings"].to_list() == [10, 9, 9, 9]


def test_users_of_one_prompt_share_a_draw(tmp_path: Path) -> None:
    log = ratings(6, 3).with_columns(item_id=pl.lit("i1"), rating=pl.lit(5.0, pl.Float32))
    asked: list[str] = []
    rows, counts = written(made_writer(tmp_path / "a", log, asked, buckets=1))
    assert len(asked) == 1
    assert counts["shared_prompt"] == 5
    assert rows["text"].n_unique() == 1
    assert rows["prompt_hash"].n_unique() == 1


def test_a_part_that_stands_is_not_made_again(tmp_path: Path) -> None:
    asked: list[str] = []
    writer = made_writer(tmp_path / "a", ratings(20, 4), asked)
    counts = [writer(name) for name in plan_parts(writer).parts]
    bytes_before = {path: path.read_bytes() for path in (tmp_path / "a" / "gen").rglob("*.parquet")}
    again = made_writer(tmp_path / "a", ratings(20, 4), asked)
    assert [again(name) for name in plan_parts(again).parts] == counts
    assert len(asked) == 20
    next(iter(bytes_before)).write_bytes(b"cut off")
    for name in plan_parts(again).parts:
        again(name)
    assert {path: path.read_bytes() for path in bytes_before} == bytes_before


def test_who_can_not_be_written_about_gets_a_profile_text(tmp_path: Path) -> None:
    rows, counts = written(made_writer(tmp_path / "a", ratings(20, 4), [], unable=["u05"]))
    row = rows.filter(pl.col("user_id") == "u05").row(0, named=True)
    assert row["status"] == "failed"
    assert "of 4" in row["text"] or "from 4" in row["text"]
    assert (counts["failed"], counts["written"]) == (1, 20)
    asked: list[str] = []
    written(made_writer(tmp_path / "b", ratings(20, 4), asked, parent=tmp_path / "a" / "gen"))
    assert asked == []  # until it has new ratings, or the generator changes


def test_fragments_and_the_list_of_the_failed_make_up_a_part(tmp_path: Path) -> None:
    whole, _ = written(made_writer(tmp_path / "a", ratings(20, 4), [], buckets=1))
    asked: list[str] = []
    writer = made_writer(tmp_path / "b", ratings(20, 4), asked, buckets=1)
    for start, end in ((0, 5), (6, 20)):
        assert writer(str(PartName("full", 0, start, end)))["users"] == end - start
    failed_file(writer.work, PartName("full", 0)).parent.mkdir()
    failed_file(writer.work, PartName("full", 0)).write_text(json.dumps(["u05"]))
    asked.clear()
    rows, counts = written(writer)
    assert asked == []
    assert rows.filter(pl.col("status") == "failed")["user_id"].to_list() == ["u05"]
    others = pl.col("user_id") != "u05"
    assert rows.filter(others).equals(whole.filter(others))
    assert counts["failed"] == 1


def test_each_tier_has_its_parts_and_a_user_stands_in_one(tmp_path: Path) -> None:
    tiers = [Tier("full", 5), Tier("small", 12), Tier("profile", writer="profile")]
    settings = BulkSettings(embed=False, tiers=tiers)
    writer = made_writer(tmp_path / "a", ratings(20, 4), [], settings=settings)
    planned = plan_parts(writer)
    order = [PartName.parse(name).tier for name in planned.parts]
    assert order == sorted(order, key=["full", "small", "profile"].index)
    rows, _ = written(writer)
    assert rows["user_id"].is_unique().all()
    assert dict(rows["tier"].value_counts().iter_rows()) == {"full": 5, "small": 7, "profile": 8}
    assert (planned.users, planned.to_write(), planned.to_write("small")) == (20, 20, 7)


@pytest.mark.parametrize("name", ["full/12", "a-b_c/0:5-9"])
def test_names_of_parts_are_read_as_they_are_written(name: str) -> None:
    assert str(PartName.parse(name)) == name


def test_vectors_are_made_where_there_is_none_of_this_encoder(tmp_path: Path) -> None:
    calls: list[list[str]] = []

    class Encoder:
        def __init__(self, name: str) -> None:
            self.name = name

        def encode(self, texts: list[str]) -> tuple[Any, int]:
            import numpy as np

            calls.append(list(texts))
            return np.array([[len(text), 1] for text in texts], np.float16), 0

    writer = made_writer(tmp_path / "a", ratings(8, 4), [], buckets=1)
    writer.encoder = lambda: Encoder("e1")  # type: ignore[assignment, return-value]
    first, _ = written(writer)
    assert [list(vector) for vector in first["vector"]] == [[len(text), 1] for text in first["text"]]
    calls.clear()
    for name, expected in (("e1", 0), ("e2", 1)):
        later = made_writer(tmp_path / name, ratings(8, 4), [], parent=tmp_path / "a" / "gen", buckets=1)
        later.encoder = lambda name=name: Encoder(name)  # type: ignore[misc, assignment, return-value]
        rows, _ = written(later)
        assert len(calls) == expected
        assert set(rows["encoder"]) == {name}
        assert set(rows["made_at"]) == {NOW}
