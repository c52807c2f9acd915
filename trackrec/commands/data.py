"""``trackrec data``: what is understood of the ratings, in one screen; loads no model and writes nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from jsonargparse import ArgumentParser

from trackrec.commands.call import Call
from trackrec.interactions import DataError
from trackrec.interactions.samples.samples import SampleTables, build_samples, check_labels, check_splits
from trackrec.recipe.tables import like_threshold
from trackrec.report.data.facts import DataFacts, data_facts
from trackrec.report.data.tables import DataTables
from trackrec.report.data.terminal import look_lines

_WIDTH = 100


def add_arguments(parser: ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("--json", action="store_true", help="Print everything as JSON.")


def run(call: Call) -> None:
    """Print the facts; the exit status is 1 if `trackrec fit` would stop at the ratings."""
    facts = look(call.objects())
    if call.own["json"]:
        call.console.print(json.dumps(_finite(asdict(facts)), indent=1, ensure_ascii=False), markup=False)
    else:
        width = min(_WIDTH, call.console.width) if call.console.is_terminal else _WIDTH
        call.console.print("\n".join(look_lines(facts, width)), markup=False)
    if any(caution.stops for caution in facts.cautions):
        raise SystemExit(1)


def look(made: Any) -> DataFacts:
    """The facts about the ratings of a configuration.

    Args:
        made: the configuration's objects.

    Raises:
        DataError: the ratings can't be read. What would stop the samples is one of the facts.
    """
    ratings, threshold = made.dataset.read(), like_threshold(made)
    tables: SampleTables | None = None
    stop = ""
    try:
        tables = build_samples(ratings, replace(made.samples, threshold=threshold), threshold, made.seed_everything)
        check_labels(tables.samples, ratings.interactions, threshold)
        check_splits(tables.samples)
    except DataError as error:
        stop = str(error)
    histories, samples, counts = tables or (None, None, {})
    kept = DataTables(ratings.items, ratings.users, ratings.interactions, histories, samples)
    return data_facts(kept, {**ratings.counts, **counts}, threshold, made.prompts, type(made.dataset).__name__, stop)


def _finite(value: Any) -> Any:
    """The value with null for NaN, which JSON doesn't have."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if value != value else value
