"""Reads text files of one JSON object or Python dict per line. Every value keeps the digits and characters it has.

Strings, numbers and truth values are columns of text, like the cells of a CSV; lists are columns of lists. A field of
an object is named with a dot, ``author.name``; of a list of objects that gives the list of the fields.
"""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import polars as pl

from trackrec.interactions.source import DataError
from trackrec.interactions.sources.columns import Columns
from trackrec.interactions.sources.delimited import KEPT_BAD_ROWS, Advice, Plan, bad_rows_error
from trackrec.interactions.sources.lines import line_blocks
from trackrec.interactions.sources.unpack import FETCH_AGAIN

Kind = Literal["json", "python"]
JSON_ENDINGS = (".json", ".jsonl", ".ndjson")

_BLOCK_BYTES = 1 << 23
_SCHEMA_BLOCKS = 8
_DEPTH = 8
_SNIFFED_LINES = 20
_SHOWN_CHARS = 80
_OBJECTS = {"json": "a JSON object", "python": "a Python dict"}
_TEXT, _TEXTS, _OBJECT = pl.String(), pl.List(pl.String), pl.Struct([])

_Record = dict[str, Any]
_Parser = Callable[[bytes], _Record | None]
_Cell = str | list[str] | dict[str, Any] | None


def record_kind(path: Path, key: str) -> Kind:
    """What the first lines of a file are.

    Raises:
        DataError: the file can't be read, or is one JSON array.
    """
    for number, line in enumerate(_first_lines(path, key)):
        if number == 0 and line.startswith(b"["):
            raise DataError(
                f"{key}: {path} is one JSON array. Write one object per line, for instance with: jq -c '.[]' FILE."
            )
        for kind, parse in _PARSERS.items():
            if parse(line) is not None:
                return kind
    return "json"


def first_records(path: Path, key: str, kind: Kind, most: int) -> tuple[list[dict[str, str | list[str] | None]], bool]:
    """The fields of the first ``most`` objects of a file as `read_records` reads them, and whether these are all.

    Lines that don't parse are left out.
    """
    found: list[dict[str, str | list[str] | None]] = []
    for _, block in line_blocks(path, key, _BLOCK_BYTES):
        for line in block.split(b"\n"):
            record = _PARSERS[kind](line) if line.strip() else None
            if record is None:
                continue
            if len(found) == most:
                return found, False
            names = dict.fromkeys(name for name, _ in _fields(record, _DEPTH))
            cells = {name: _plain(_value(record, name)) for name in names}
            found.append({name: cell for name, cell in cells.items() if not isinstance(cell, dict)})
    return found, True


def read_records(path: Path, advice: Advice, kind: Kind, plan: Plan, drop: bool) -> tuple[pl.DataFrame, int]:
    """See `files.read_rows`."""
    parse = _PARSERS[kind]
    columns = _columns(path, advice.key, kind, plan)
    frames = [_frame([], [columns.schema[name] for name in columns.needs], columns).drop("good")]
    shown: list[tuple[int, str]] = []
    n_bad = 0
    for first, block in line_blocks(path, advice.key, _BLOCK_BYTES):
        lines = block.split(b"\n")
        good, bad = _read_block(path, lines, parse, plan, columns)
        frames.extend(good)
        n_bad += len(bad)
        texts = ((first + at, lines[at][: 2 * _SHOWN_CHARS].decode("utf-8", "replace").strip()) for at in bad)
        shown += [text for text, _ in zip(texts, range(KEPT_BAD_ROWS - len(shown)), strict=False)]
    if n_bad and not drop:
        wants = columns.wants.replace("want ", f"want {_OBJECTS[kind]} with ", 1)
        raise bad_rows_error(path, advice, shown, n_bad, wants, "line")
    return pl.concat(frames), n_bad


def _columns(path: Path, key: str, kind: Kind, plan: Plan) -> Columns:
    """The columns by the fields of the first lines, of the first 64 MiB if the first eight lack one.

    Raises:
        DataError: a field is missing, or holds no single values where these are wanted; or no line is an object.
    """
    types: dict[str, pl.DataType | None] = {}  # None: null, or an empty list, in every line so far
    failed: DataError | None = None
    for (_, block), _ in zip(line_blocks(path, key, _BLOCK_BYTES), range(_SCHEMA_BLOCKS), strict=False):
        for line in block.split(b"\n"):
            for name, value in _fields(_PARSERS[kind](line) or {}, _DEPTH):
                cell, known = _plain(value), types.setdefault(name, None)
                if cell is not None and known != _TEXT:
                    types[name] = _type(cell)
        if types:
            schema = {name: dtype or _TEXT for name, dtype in types.items()}
            try:
                return plan(path, schema)
            except DataError as error:
                failed = error
    if failed is not None:
        raise failed
    first = next(_first_lines(path, key), None)
    if first is None:
        raise DataError(f"{key}: {path} is empty. {FETCH_AGAIN}")
    text = first[:_SHOWN_CHARS].decode("utf-8", "replace")
    raise DataError(f"{key}: {path} has no line that holds {_OBJECTS[kind]}: it begins {text!r}. Is it another format?")


def _read_block(
    path: Path, lines: list[bytes], parse: _Parser, plan: Plan, columns: Columns
) -> tuple[list[pl.DataFrame], list[int]]:
    """The good rows of some lines, in their order, and which lines are bad.

    A column of a frame has one type: lines whose values have other types are read with other expressions.
    """
    bad: list[int] = []
    groups: dict[tuple[pl.DataType, ...], list[tuple[int, list[_Cell]]]] = {}
    for at, line in enumerate(lines):
        if not line.strip():
            continue
        record = parse(line)
        if record is None:
            bad.append(at)
            continue
        cells = [_plain(_value(record, name)) for name in columns.needs]
        # Null and an empty list have their column's type, or they could not stand in one column with lists.
        pairs = zip(columns.needs, cells, strict=True)
        kinds = tuple(columns.schema[name] if cell is None else _type(cell) for name, cell in pairs)
        groups.setdefault(kinds, []).append((at, cells))
    frames = []
    for types, rows in groups.items():
        try:
            of_types = plan(path, {**columns.schema, **dict(zip(columns.needs, types, strict=True))})
        except DataError:  # a list or an object where a single value is wanted
            bad += [at for at, _ in rows]
            continue
        frame = _frame([cells for _, cells in rows], list(types), of_types)
        frame = frame.with_columns(at=pl.Series([at for at, _ in rows], dtype=pl.Int64))
        bad += frame.filter(~pl.col("good"))["at"].to_list()
        frames.append(frame.filter("good"))
    if frames:
        frames = [pl.concat(frames).sort("at").drop("good", "at")]
    return frames, sorted(bad)


def _frame(rows: list[list[_Cell]], types: list[pl.DataType], columns: Columns) -> pl.DataFrame:
    """The rows after the expressions of ``columns``, with ``good``; ``types`` are those of the columns it needs."""
    cells = zip(*rows, strict=True) if rows else [[] for _ in types]
    raw = {
        name: pl.Series(name, list(values), dtype=dtype)
        for name, values, dtype in zip(columns.needs, cells, types, strict=True)
    }
    return pl.DataFrame(raw).select(**columns.exprs, good=columns.good)


def _first_lines(path: Path, key: str) -> Iterator[bytes]:
    for _, block in line_blocks(path, key, 1 << 16):
        found = [line.strip() for line in block.split(b"\n") if line.strip()]
        if found:
            yield from found[:_SNIFFED_LINES]
            return


def _fields(record: _Record, depth: int) -> Iterator[tuple[str, Any]]:
    """The fields of an object and, after dots, of the objects in it."""
    for name, value in record.items():
        yield name, value
        if depth:
            for inner in value if isinstance(value, list) else [value]:
                if isinstance(inner, dict):
                    many = isinstance(value, list)
                    yield from (
                        (f"{name}.{below}", [each] if many else each) for below, each in _fields(inner, depth - 1)
                    )


def _value(value: Any, name: str) -> Any:
    """A field by its name; a name with dots leads into objects, and into each object of a list."""
    if isinstance(value, list | tuple | set):
        found = [_value(each, name) for each in value]
        return [each for some in found for each in (some if isinstance(some, list) else [some])]
    if not isinstance(value, dict):
        return None
    if name in value:
        return value[name]
    head, dot, rest = name.partition(".")
    while dot:
        if head in value:
            return _value(value[head], rest)
        more, dot, rest = rest.partition(".")
        head = f"{head}.{more}"
    return None


def _plain(value: Any) -> _Cell:
    """A value as text or list of texts, without loss; None for null and for empty lists. Objects stay objects."""
    if value is None or isinstance(value, str):
        # A lone surrogate can't be encoded.
        return value if value is None or value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return value or None
    if isinstance(value, list | tuple | set | frozenset):
        cells = [_plain(each) for each in value if each is not None]
        texts = [each for each in cells if isinstance(each, str)]
        return (texts or None) if len(texts) == len(cells) else {"": value}
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return repr(value)


def _type(cell: _Cell) -> pl.DataType:
    return _TEXTS if isinstance(cell, list) else _OBJECT if isinstance(cell, dict) else _TEXT


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is not valid JSON")


_JSON = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_no_constant)


def _parse_json(line: bytes) -> _Record | None:
    try:
        record = _JSON.decode(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _parse_python(line: bytes) -> _Record | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of backslashes that escape nothing
            record = ast.literal_eval(line.decode("utf-8").strip())
    # MemoryError: the parser's own stack is full.
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None
    return {str(name): value for name, value in record.items()} if isinstance(record, dict) else None


_PARSERS: dict[Kind, _Parser] = {"json": _parse_json, "python": _parse_python}
