"""Saves a teacher's answers as they arrive, since they cost money or time."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, NamedTuple

# Under logs, which the stage's content hash leaves out: the order of arrival differs between runs.
ANSWERS = Path("logs", "teacher_answers.jsonl")


class Answer(NamedTuple):
    """One answer.

    Attributes:
        outcome: whether it holds a text.
        text: empty unless the outcome is ``text``.
        cut: whether the length limit ended it.
        prompt_tokens: tokens read.
        completion_tokens: tokens written.
        estimated: the server sent no token counts; these are upper bounds.
    """

    outcome: Literal["text", "refused", "empty"]
    text: str
    cut: bool
    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False


class AnswerStore:
    """Answers by key in an append-only JSON-lines file of a stage directory; use it as a context manager.

    Each answer is on the disk before `add` returns. A line cut off by a crash is skipped. Answers that the same
    stage got under another config (such as a higher ``max_cost``) are reused: the key holds all that they depend on.

    Args:
        out_dir: the stage directory.
        keys: the keys of the answers to use; others stay in the file.
    """

    def __init__(self, out_dir: Path, keys: Collection[str]) -> None:
        self.path = out_dir / ANSWERS
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        wanted = set(keys)
        self._rows = {key: row for key, row in _rows(self.path) if key in wanted}
        for earlier in _earlier(out_dir):
            for key, row in _rows(earlier / ANSWERS):
                if key in wanted and key not in self._rows:
                    self._append(row)
                    self._rows[key] = row

    def __enter__(self) -> AnswerStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: str) -> Answer | None:
        """The answer under a key, None where there is none yet."""
        row = self._rows.get(key)
        return None if row is None else Answer(**{name: row[name] for name in Answer._fields})

    def add(self, key: str, history_id: str, answer: Answer) -> None:
        """Save an answer. Threads may call this at the same time."""
        # A lone surrogate is legal JSON and legal in a Python string, but not in a Parquet file.
        text = answer.text.encode("utf-8", "replace").decode()
        row = {"key": key, "history_id": history_id, **answer._replace(text=text)._asdict()}
        with self._lock:
            self._append(row)
            self._rows[key] = row

    def _append(self, row: dict[str, Any]) -> None:
        if self._file is None:
            self._file = self._open()
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _open(self) -> BinaryIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("ab+")
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a line cut off by a crash must not swallow the next one
                file.write(b"\n")
        return file


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Complete lines of an answers file by key."""
    if not path.is_file():
        return
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and {"key", *Answer._fields} <= row.keys():
            yield row["key"], row


def _earlier(out_dir: Path) -> list[Path]:
    """Directories of the same stage under other fingerprints, finished or not."""
    stage = out_dir.name.rpartition("-")[0]
    if out_dir.parent.name != ".partial" or not stage:
        return []
    others = sorted(path for path in out_dir.parent.glob(f"{stage}-*") if path != out_dir)
    return [*others, out_dir.parent.parent / stage.replace("--", "/")]
