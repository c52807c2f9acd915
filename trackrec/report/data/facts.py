"""What a run understood of its ratings: the facts behind `trackrec data` and the report's section "Data"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trackrec.prompts.book import PromptBook
from trackrec.prompts.settings import PromptSettings
from trackrec.report.data.cautions import Caution, cautions
from trackrec.report.data.counts import HIDDEN, LeftOut, left_out
from trackrec.report.data.tables import DataTables
from trackrec.report.prompt_text import validator_text

TEXT = "(the text that G writes)"
_SHOWN_HISTORIES = 3
_MOST_VALUES = 12  # bars for that many distinct ratings, else for ranges
_RANGES = 10
_SKEWED = 20  # the largest rating is so many medians: ranges grow by a factor


@dataclass(frozen=True)
class Bar:
    """How many ratings lie in a range, whose upper end belongs to it; of a single value both ends are the value."""

    low: float
    high: float
    ratings: int
    liked: bool

    @property
    def name(self) -> str:
        """The value, or the range."""
        return f"{self.high:g}" if self.low == self.high else f"{self.low:.4g} to {self.high:.4g}"


@dataclass(frozen=True)
class Spread:
    """Three quantiles: the median, and two as far below it as above it."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class SplitFacts:
    """One split of the labelled samples; ``like_share`` is among its samples."""

    name: str
    samples: int
    histories: int
    users: int
    like_share: float


@dataclass(frozen=True)
class ShownHistory:
    """A history as the generator's (G's) and the validator's (V's) prompt begin with it."""

    user: str
    items: int
    generator: str
    validator: str


@dataclass(frozen=True)
class CutHistories:
    """Of how many histories a prompt lists the newest items only; counts and kinds above the list are of all of it."""

    reader: str
    most: int
    cut: int
    histories: int

    @property
    def told(self) -> str:
        """In words, with the key that decides it."""
        newest = {0: "no item", 1: "the newest item"}.get(self.most, f"the newest {self.most:,} items")
        return (
            f"{self.reader[0].upper()} lists {newest} (prompts.{self.reader}.max_history): "
            f"{self.cut:,} of {self.histories:,} histories have more"
        )


@dataclass(frozen=True)
class DataFacts:
    """What was understood of the ratings.

    Attributes:
        ratings, users, items: how many of each were kept.
        unrated_items: items that nobody rated.
        threshold: a rating above it is a like.
        histogram: the ratings by value, or by range.
        first, last: dates of the first and the last rating; None where there are no times.
        like_share: of all ratings.
        user_like_share: quartiles of the users' own shares.
        one_class_users: users whose ratings are all likes, or all none.
        per_user, per_item: ratings, 10 %, half and 90 % of the users have at most so many; items: of the rated ones.
        splits: the samples, by split.
        reward_samples, tune_samples: train samples that score texts, and that tune V.
        scored_histories: train histories that have both a like and a dislike among those that score texts.
        counts: everything that was counted, by its key in the manifest of the stage.
        left_out: what was left out and why.
        only_history: ratings that are no samples and weren't left out: they make up histories.
        histories: the newest one of each of the first users, as the prompts show them.
        cuts: how many histories G and V see the newest items of only; empty without histories.
        generator_prompt, validator_prompt: both of them in full, about the first one.
        cautions: what looks wrong, and the key to change.
    """

    ratings: int
    users: int
    items: int
    unrated_items: int
    threshold: float
    histogram: tuple[Bar, ...]
    first: str | None
    last: str | None
    like_share: float
    user_like_share: Spread
    one_class_users: int
    per_user: Spread
    per_item: Spread
    splits: tuple[SplitFacts, ...]
    reward_samples: int
    tune_samples: int
    scored_histories: int
    counts: Mapping[str, float]
    left_out: tuple[LeftOut, ...]
    only_history: int
    histories: tuple[ShownHistory, ...]
    cuts: tuple[CutHistories, ...]
    generator_prompt: str
    validator_prompt: str
    cautions: tuple[Caution, ...]


def data_facts(
    tables: DataTables,
    counts: Mapping[str, float],
    threshold: float,
    prompts: PromptSettings,
    source: str,
    stop: str = "",
) -> DataFacts:
    """The facts about the tables of the stage ``data``.

    Args:
        tables: made by the stage, or by what it calls.
        counts: of the source and of the samples, as in the stage's manifest.
        threshold: a rating above it is a like.
        prompts: of the run.
        source: name of the dataset's class.
        stop: the error at which `trackrec fit` would stop; empty where there is none.
    """
    log, samples = tables.interactions, tables.samples
    liked = log.select("user_id", liked=pl.col("rating") > threshold)
    by_user = liked.group_by("user_id").agg(share=pl.col("liked").mean(), ratings=pl.len())
    by_item = log["item_id"].value_counts()["count"]
    shares = by_user["share"].to_numpy()
    shown, asked = _histories(tables, threshold, prompts)
    first, last = _dates(log)
    low, middle, high = np.quantile(shares, [0.25, 0.5, 0.75])
    uses = {} if samples is None else dict(samples["use"].value_counts().iter_rows())
    return DataFacts(
        ratings=log.height,
        users=tables.users.height,
        items=tables.items.height,
        unrated_items=tables.items.join(log, on="item_id", how="anti").height,
        threshold=threshold,
        histogram=histogram(log["rating"].to_numpy(), threshold),
        first=first,
        last=last,
        like_share=float(liked["liked"].mean() or 0),  # type: ignore[arg-type]
        user_like_share=Spread(float(low), float(middle), float(high)),
        one_class_users=int(((shares == 0) | (shares == 1)).sum()),
        per_user=_tenths(by_user["ratings"]),
        per_item=_tenths(by_item),
        splits=() if samples is None else _splits(samples),
        reward_samples=uses.get("reward", 0),
        tune_samples=uses.get("tune", 0),
        scored_histories=tables.scored_histories(),
        counts={key: value for key, value in counts.items() if key not in HIDDEN},
        left_out=left_out(counts),
        only_history=0 if samples is None else log.height - samples.height - _unused(counts),
        histories=shown,
        cuts=_cuts(tables, prompts),
        generator_prompt=asked[0],
        validator_prompt=asked[1],
        cautions=cautions(tables, shares, counts, threshold, prompts, source, stop),
    )


def histogram(ratings: NDArray[np.float32], threshold: float) -> tuple[Bar, ...]:
    """Bars from the lowest rating to the highest, none across the threshold."""
    values, counts = np.unique(ratings, return_counts=True)
    if len(values) <= _MOST_VALUES:
        pairs = zip(values.tolist(), counts.tolist(), strict=True)
        return tuple(Bar(value, value, count, value > threshold) for value, count in pairs)
    low, high = float(values[0]), float(values[-1])
    if low > 0 and high > _SKEWED * float(np.median(ratings)):  # plays, seconds: few are as large as the largest
        edges = np.geomspace(low, high, _RANGES + 1)
    else:
        edges = np.linspace(low, high, _RANGES + 1)
    edges[0], edges[-1] = low, high
    if low < threshold < high:
        inner = 1 + int(np.abs(edges[1:-1] - threshold).argmin())
        edges[inner] = threshold
    # The first range holds its lower end too.
    places = np.maximum(np.searchsorted(edges, values, side="left") - 1, 0)
    heights = np.bincount(places, counts, minlength=_RANGES).astype(int)
    ends = zip(edges[:-1].tolist(), edges[1:].tolist(), heights.tolist(), strict=True)
    return tuple(Bar(start, end, count, start >= threshold) for start, end, count in ends)


def _dates(log: pl.DataFrame) -> tuple[str | None, str | None]:
    """Days of the first and the last rating; None where the row numbers stand for times."""
    first, last = (int(getattr(log["timestamp"], name)()) for name in ("min", "max"))
    if first >= 0 and last <= int(log["row"].max()):  # type: ignore[arg-type]
        return None, None
    days = [str(np.datetime64(second, "s").astype("datetime64[D]")) for second in (first, last)]
    return days[0], days[1]


def _tenths(counts: pl.Series) -> Spread:
    """The 10th, 50th and 90th percentile, each of them one of the counts."""
    low, middle, high = np.quantile(counts.to_numpy(), [0.1, 0.5, 0.9], method="inverted_cdf")
    return Spread(int(low), int(middle), int(high))


def _unused(counts: Mapping[str, float]) -> int:
    """Ratings that the rules keep from being samples."""
    return sum(int(counts.get(key, 0)) for key in ("ties_dropped", "short_histories"))


def _splits(samples: pl.DataFrame) -> tuple[SplitFacts, ...]:
    found = samples.group_by("split").agg(
        pl.len().alias("samples"),
        pl.col("history_id").n_unique().alias("histories"),
        pl.col("user_id").n_unique().alias("users"),
        pl.col("label").mean().alias("likes"),
    )
    rows = {row[0]: SplitFacts(*row) for row in found.iter_rows()}
    return tuple(rows.get(name, SplitFacts(name, 0, 0, 0, float("nan"))) for name in ("train", "valid", "test"))


def _cuts(tables: DataTables, prompts: PromptSettings) -> tuple[CutHistories, ...]:
    """Of the histories that have samples."""
    if tables.histories is None or tables.samples is None:
        return ()
    sizes = tables.histories.join(tables.samples, on="history_id", how="semi")["item_ids"].list.len()
    lists = {"generator": prompts.for_generator().max_history, "validator": prompts.for_validator().max_history}
    return tuple(CutHistories(name, most, int((sizes > most).sum()), len(sizes)) for name, most in lists.items())


def _histories(
    tables: DataTables, threshold: float, prompts: PromptSettings
) -> tuple[tuple[ShownHistory, ...], Sequence[str]]:
    """The last history of each of the first users who have one, and both prompts about the first of these."""
    if tables.histories is None or tables.samples is None:
        return (), ("", "")
    filled = tables.histories.filter(pl.col("item_ids").list.len() > 0)
    filled = filled.join(tables.samples, on="history_id", how="semi", maintain_order="left")
    rows = filled.unique("user_id", keep="last", maintain_order=True).head(_SHOWN_HISTORIES)
    if rows.is_empty():
        return (), ("", "")
    asked = tables.samples.filter(pl.col("history_id") == rows["history_id"][0])["item_id"][0]
    held = pl.concat([rows["item_ids"].explode(), pl.Series([asked])]).unique()
    items = tables.items.filter(pl.col("item_id").is_in(held.implode()))
    users = tables.users.filter(pl.col("user_id").is_in(rows["user_id"].implode()))
    book = PromptBook(rows, items, users, threshold, prompts)
    shown = tuple(
        ShownHistory(user, len(item_ids), book.history_text(key), book.validator_history(key))
        for key, user, item_ids in rows.select("history_id", "user_id", "item_ids").iter_rows()
    )
    key = rows["history_id"][0]
    return shown, ("".join(book.reccot_prompt(key)), validator_text(book, key, TEXT, asked))
