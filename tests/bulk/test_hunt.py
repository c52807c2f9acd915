"""Users who end the worker that writes about them are found by halving; everyone else gets their text."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import polars as pl
import pytest
from made_bulk import CountingWriter, made_writer, ratings

from trackrec.bulk.part import GEN, PartWriter
from trackrec.bulk.refresh import check_parts, plan_parts, write_parts
from trackrec.bulk.writers import Written
from trackrec.engine.engine import Engine, EngineError, PartDone, PartLost, WorkerSpec
from trackrec.prompts.book import PromptBook
from trackrec.storage.generations import read_texts


class Poisoned(CountingWriter):
    """Ends its process, here with an exception, when it is asked about one of some users."""

    def __init__(self, asked: list[str], poison: Sequence[str]) -> None:
        super().__init__(asked)
        self.poison = poison

    def write(self, book: PromptBook, users: Sequence[str]) -> list[Written]:
        if any(user in self.poison for user in users):
            raise MemoryError("of the worker")
        return super().write(book, users)


class HereEngine:
    """Calls the worker in this process; an exception counts as the death of a worker."""

    def __init__(self, writer: PartWriter) -> None:
        self.writer, self.tries = writer, 3

    def run(
        self, parts: deque[str], spec: WorkerSpec, tries: Callable[[str], int] | None = None
    ) -> Iterator[PartDone | PartLost]:
        while parts:
            part = parts.popleft()
            for _ in range(tries(part) if tries else self.tries):
                try:
                    yield PartDone(part, self.writer(part), 1.0)
                    break
                except MemoryError as error:
                    reason = f"Traceback ...\nMemoryError: {error}"
            else:
                yield PartLost(part, reason)


def refreshed(work: Path, poison: Sequence[str], users: int = 10, most: float = 0.5) -> tuple[pl.DataFrame, list[str]]:
    asked: list[str] = []
    writer = made_writer(work, ratings(users, 4), asked, buckets=2)
    writer.writer = lambda _: Poisoned(asked, poison)
    planned = plan_parts(writer)
    said: list[str] = []
    write_parts(writer, planned, cast(Engine, HereEngine(writer)), WorkerSpec("none"), most, said.append)
    check_parts(writer, planned)
    frames = [read_texts(path) for path in sorted((work / GEN).glob("*/*/*.parquet"))]
    return pl.concat(frames).sort("user_id"), said


@pytest.mark.parametrize("poison", [["u05"], ["u00"], ["u09"], ["u03", "u04", "u07", "u08"]])
def test_the_poisoned_get_profile_texts_and_the_others_theirs(tmp_path: Path, poison: list[str]) -> None:
    well, _ = refreshed(tmp_path / "a", [])
    rows, said = refreshed(tmp_path / "b", poison)
    ill = pl.col("user_id").is_in(poison)
    assert set(rows.filter(ill)["status"]) == {"failed"}
    assert rows.filter(~ill).equals(well.filter(~ill))
    assert [line for line in said if "gets a profile text: MemoryError: of the worker" in line] != []
    assert not (tmp_path / "b" / "fragments").exists()


def test_more_of_them_than_may_be_end_the_refresh(tmp_path: Path) -> None:
    everyone = [f"u{user:02d}" for user in range(10)]
    with pytest.raises(EngineError, match=r"more than 3 users can't be written about \(bulk\.max_failed\)"):
        refreshed(tmp_path / "a", everyone, most=0.01)


def test_a_part_that_is_missing_is_found_whatever_the_engine_says(tmp_path: Path) -> None:
    writer = made_writer(tmp_path / "a", ratings(20, 4), [])
    planned = plan_parts(writer)
    write_parts(writer, planned, cast(Engine, HereEngine(writer)), WorkerSpec("none"), 0.1, print)
    check_parts(writer, planned)
    paths = sorted((tmp_path / "a" / GEN).glob("*/*/*.parquet"))
    content = paths[0].read_bytes()
    paths[0].write_bytes(paths[1].read_bytes())
    with pytest.raises(EngineError, match="rows of"):
        check_parts(writer, planned)
    paths[0].unlink()
    with pytest.raises(EngineError, match="is missing, though every part was reported"):
        check_parts(writer, planned)
    paths[0].write_bytes(content)
    check_parts(writer, planned)
