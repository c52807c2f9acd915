"""Whether a V reads: its scores with the users' own texts against those with other users' texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from trackrec.ctr.arms.shuffle import other_texts
from trackrec.metrics.intervals import Interval
from trackrec.recipe.names import SHUFFLED
from trackrec.recipe.scoring import BASE, measure_texts
from trackrec.recipe.tables import empty_histories
from trackrec.storage.parts import read_table
from trackrec.validator.evaluate import scored_rows_of, text_use

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment


class TextUse(NamedTuple):
    """V's metrics with other users' texts, and its AUC with the own ones less that, paired over users."""

    others: dict[str, Interval]
    use: Interval


def measure_reading(
    exp: Experiment,
    out: Path,
    rows: pl.DataFrame,
    texts: Mapping[str, str],
    validator: str | None,
    source: str,
    round_: int,
    first_part: int,
) -> TextUse | None:
    """Score rows once more with the text about another user; None where fewer than two users have a text.

    Rows of empty histories are left out, since all of those have the same text.

    Args:
        exp: the run.
        out: the stage directory, whose scores table holds V's scores of the rows with the own texts.
        rows: of the samples table.
        texts: the own text of each history.
        validator: the stage of V; None is the base model.
        source: under which the scores with the own texts are filed.
        round_: of the texts.
        first_part: number of the first part of the new scores.
    """
    described = rows.filter(~pl.col("history_id").is_in(list(empty_histories(exp))))
    owners = dict(described.select("history_id", "user_id").iter_rows())
    if len(set(owners.values())) < 2:
        exp.say("    whether V reads can't be measured: it takes texts about two users among the rows")
        return None
    other = other_texts({key: texts[key] for key in owners}, owners, exp.seed)
    _, values = measure_texts(exp, out, described, other, validator, SHUFFLED, round_, first_part)
    scores, name = read_table(out, "scores"), validator or BASE
    own = scored_rows_of(scores, rows, name, source).join(described, on="sample_id", how="semi").sort("sample_id")
    use = text_use(own, scored_rows_of(scores, described, name, SHUFFLED), exp.seed)
    exp.say(f"    V reads: {signed(use.value)} [{signed(use.low, '')}, {signed(use.high, '')}] of AUC")
    return TextUse(values, use)


def signed(value: float, plus: str = "+") -> str:
    """Three decimals without the leading zero: ``+.036``, ``-.021``."""
    return f"{value:{plus}.3f}".replace("0.", ".", 1)
