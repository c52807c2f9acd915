"""One `TextFormat` for all files of a data set, and the splits that their names tell."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from trackrec.interactions.guess.look import Look
from trackrec.interactions.guess.names import tokens
from trackrec.interactions.source import DataError
from trackrec.interactions.sources.text_format import TextFormat

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def common_form(looks: Mapping[str, Look]) -> TextFormat:
    """How all text files are written: `Table` reads them in one form.

    Args:
        looks: by ``ratings``, ``items``, ``users``.

    Raises:
        DataError: they differ.
    """
    fields = {key: look for key, look in looks.items() if look.has_fields}
    kinds = {look.form.format for look in looks.values() if look.kind != "Parquet"} - {"auto"}
    if len(kinds) > 1 or (kinds and fields):
        raise DataError("The files are not all fields, JSON or Python: give those of objects the ending .json.")
    form = next(iter(fields.values())).form if fields else TextFormat()
    for key, look in fields.items():
        for part, problem in (("separator", "separate fields by"), ("header", "begin with a header:")):
            if getattr(look.form, part) != getattr(form, part):
                first, other = next(iter(fields)), key
                a, b = (json.dumps(getattr(fields[each].form, part)) for each in (first, other))
                raise DataError(
                    f"--{other}: {look.paths[0]} and --{first} {problem} {b} and {a}, but are read in one form. "
                    "Write one of them like the other, or as Parquet."
                )
        form = replace(form, escape=form.escape or look.form.escape)
    quoted = [look.form.quote for look in fields.values() if look.quotes]
    quote = quoted[0] if quoted else form.quote
    if any(each != quote for each in quoted):
        raise DataError("The files use quotation marks differently, but are read in one form. Write one as Parquet.")
    return replace(form, quote=quote, format=next(iter(kinds), "auto"))


def published_splits(paths: Sequence[Path]) -> dict[str, Path]:
    """The files of published splits by the words in their paths; none where these don't tell."""
    found: dict[str, Path] = {}
    for path in paths:
        words = [_SPLITS[word] for part in reversed(path.parts) for word in tokens(part) if word in _SPLITS]
        if not words or words[0] in found:
            return {}
        found[words[0]] = path
    if set(found) == {"train", "valid"}:  # a test part without answers is often kept back
        found["test"] = found.pop("valid")
    return found if {"train", "test"} <= set(found) else {}
