"""What looks wrong with some ratings before a run spends hours on them, and the key to change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from trackrec.interactions.sources.columns import ARGS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trackrec.prompts.settings import PromptSettings
    from trackrec.report.data.tables import DataTables

_ONE_SIDED = 0.02  # fewer likes than this share, or fewer others
_ONE_CLASS_USERS = 0.5
_UNTITLED = 0.05
_TIED = 0.2
_FIRST_YEAR_S = 31_536_000

# Only `Table` has keys for columns; other sources know theirs.
TABLE = "Table"
TITLE = f"{ARGS}.item_columns.title"
ATTRIBUTES = f"{ARGS}.item_columns.attributes"
TIMESTAMP = f"{ARGS}.columns.timestamp"
TIME_UNIT = f"{ARGS}.time_unit"
THRESHOLD = "samples.threshold"
PER = "samples.per"


@dataclass(frozen=True)
class Caution:
    """Something that looks wrong, and the key to change, unless the text names it; `trackrec fit` may stop there."""

    text: str
    key: str
    stops: bool = False

    @property
    def told(self) -> str:
        """The text, and the key to change."""
        return f"{self.text} Change {self.key}." if self.key else self.text


def cautions(
    tables: DataTables,
    like_shares: NDArray[np.floating],
    counts: Mapping[str, object],
    threshold: float,
    prompts: PromptSettings,
    source: str,
    stop: str,
) -> tuple[Caution, ...]:
    """What looks wrong, the errors first.

    Args:
        tables: of the stage ``data``.
        like_shares: share of likes of each user.
        counts: of the stage ``data``.
        threshold: a rating above it is a like.
        prompts: of the run.
        source: name of the dataset's class.
        stop: the error at which `trackrec fit` would stop, or empty.
    """
    found = [Caution(stop, "", stops=True)] if stop else []
    found += _labels(tables.interactions, like_shares, threshold, THRESHOLD in stop)
    found += _times(tables.interactions, counts)
    found += [] if stop else _rewards(tables)
    found += _texts(tables.items, prompts)
    foreign = () if source == TABLE else (TITLE, ATTRIBUTES, TIMESTAMP, TIME_UNIT)
    return tuple(replace(caution, key="") if caution.key in foreign else caution for caution in found)


def _labels(log: pl.DataFrame, like_shares: NDArray[np.floating], threshold: float, told: bool) -> Iterator[Caution]:
    likes = float((log["rating"] > threshold).mean())  # type: ignore[arg-type]
    low, high = float(log["rating"].min()), float(log["rating"].max())  # type: ignore[arg-type]
    reach = f"the ratings go from {low:g} to {high:g}, the threshold is {threshold:g}"
    if likes in (0, 1):
        if told:
            return
        yield Caution(f"{'Every' if likes else 'No'} rating is a like: {reach}.", THRESHOLD)
        return
    if not _ONE_SIDED <= likes <= 1 - _ONE_SIDED:
        yield Caution(f"{likes:.1%} of the ratings are likes: {reach}.", THRESHOLD)
    one_class = float(((like_shares == 0) | (like_shares == 1)).mean())
    if one_class >= _ONE_CLASS_USERS:
        yield Caution(
            f"{one_class:.0%} of the users like all that they rated, or nothing. Scoring texts and UAUC need users "
            "with both.",
            THRESHOLD if log["rating"].n_unique() > 2 else "",
        )


def _times(log: pl.DataFrame, counts: Mapping[str, object]) -> Iterator[Caution]:
    first, last = int(log["timestamp"].min()), int(log["timestamp"].max())  # type: ignore[arg-type]
    if first == last and log.height > 1:
        yield Caution("All ratings have the same time, so nothing comes before anything else.", TIMESTAMP)
        return
    rows = int(log["row"].max())  # type: ignore[arg-type]
    if rows < last < _FIRST_YEAR_S:
        yield Caution(f"All times are in the year 1970: {first:,} to {last:,} seconds.", TIME_UNIT)
    tied = counts.get("ties_dropped")
    if isinstance(tied, int) and tied > _TIED * log.height:
        yield Caution(
            f"{tied / log.height:.0%} of the ratings are no samples, since they have the same second as their history.",
            "samples.strict_ties",
        )


def _rewards(tables: DataTables) -> Iterator[Caution]:
    if tables.samples is None or tables.scored_histories():
        return
    if (tables.samples["use"] == "reward").any():
        yield Caution(
            "No train history has both a like and a dislike that score its texts, so G can't be aligned: each class is "
            "dealt to scoring and to tuning V by turns.",
            THRESHOLD,
        )
    else:
        yield Caution(
            "No train sample scores texts, so the loop can't begin: no history has two likes or two dislikes among its "
            "train samples.",
            PER,
        )


def _texts(items: pl.DataFrame, prompts: PromptSettings) -> Iterator[Caution]:
    untitled = float((items["title"] == items["item_id"]).mean())  # type: ignore[arg-type]
    if untitled >= _UNTITLED:
        yield Caution(f"{untitled:.0%} of the items have their id for a title: a language model learns little.", TITLE)
    if (items["attributes"].list.len().fill_null(0) > 0).any():
        return
    readers = (prompts.for_generator(), prompts.for_validator())
    wanted = {
        "prompts.history_attributes": any(seen.history_attributes for seen in readers),
        "prompts.history_kinds": any(seen.history_kinds for seen in readers),
        "prompts.target_attributes": prompts.target_attributes,
    }
    if keys := [key for key, value in wanted.items() if value]:
        yield Caution(f"No item has attributes, so {', '.join(keys)} show nothing.", ATTRIBUTES)
